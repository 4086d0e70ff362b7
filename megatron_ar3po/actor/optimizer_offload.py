"""The optimizer's state on the host while servers use the accelerator.

Megatron's own `offload_to_cpu` moves every tensor of the parameter groups. In bf16 these are the fp32 main weights; in
fp32 they are views of the model's weights, and a moved view is a copy: the optimizer would go on to train the copy, and
the model would stand still without a word. Here what shares memory with the model stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.actor.optimizer import Optimizer


class OptimizerOffload:
    """`offload` and `onload` in turn; each is harmless when there is nothing to do."""

    def __init__(self, model: PolicyModel, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._device = next(model.parameters()).device
        self.is_offloaded = False
        self._moved: list[Tensor] = []
        self._moved_state: list[tuple[MutableMapping[str, Any], str]] = []

    def offload(self) -> None:
        if self.is_offloaded:
            return
        self._moved = list(self._main_weights())
        for tensor in self._moved:
            tensor.data = tensor.data.to("cpu", copy=True)
        self._moved_state = list(self._moments())
        for state, key in self._moved_state:
            state[key] = state[key].to("cpu", copy=True)
        self.is_offloaded = True

    def onload(self) -> None:
        if not self.is_offloaded:
            return
        for tensor in self._moved:
            tensor.data = tensor.data.to(self._device)
        for state, key in self._moved_state:
            state[key] = state[key].to(self._device)
        self._moved, self._moved_state = [], []
        self.is_offloaded = False

    def _main_weights(self) -> Iterator[Tensor]:
        of_the_model = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        for one in self._optimizer.inner.chained_optimizers:
            for group in one.optimizer.param_groups:
                for tensor in group["params"]:
                    if tensor.untyped_storage().data_ptr() not in of_the_model:
                        yield tensor

    def _moments(self) -> Iterator[tuple[MutableMapping[str, Any], str]]:
        for one in self._optimizer.inner.chained_optimizers:
            for state in one.optimizer.state.values():
                for key, value in state.items():
                    if isinstance(value, torch.Tensor) and value.device == self._device:
                        yield state, key
