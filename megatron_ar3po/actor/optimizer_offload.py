"""The optimizer's state on the host while servers use the accelerator.

Megatron's own `offload_to_cpu` moves every tensor of the parameter groups. In bf16 these are the fp32 main weights; in
fp32 they are views of the model's weights, and a moved view is a copy: the optimizer would go on to train the copy, and
the model would stand still without a word. Here what shares memory with the model stays where it is.

Parked, the optimizer's tensors are the host buffers themselves (`actor.host_copies`). What is brought back is what the
optimizer holds then, not what was parked: a load may have replaced it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from megatron_ar3po.actor.host_copies import CopyStream, HostBuffers, copy_stream
from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.actor.optimizer import Optimizer

Slots = dict[str, tuple[Tensor, Callable[[Tensor], None]]]  # what it holds, what puts another there


class OptimizerOffload:
    """`offload` and `onload` in turn; each is harmless when there is nothing to do."""

    def __init__(
        self, model: PolicyModel, optimizer: Optimizer, stream: CopyStream | None = None
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._stream = stream or copy_stream(next(model.parameters()).device)
        self.buffers = HostBuffers()
        self.is_offloaded = False
        self._main_weights: dict[str, Tensor] = {}  # that were parked

    @contextlib.contextmanager
    def offload(self) -> Iterator[None]:
        """The copies are queued, and run while the caller moves what else it has; at the end they are waited for, and
        the accelerator's memory is freed."""
        if self.is_offloaded:
            yield
            return
        self._stream.synchronize()  # an onload reads buffers that may be given up here
        self._main_weights = dict(self._find_main_weights())
        slots = self._slots()
        buffers = self.buffers.of({name: tensor for name, (tensor, _) in slots.items()})
        self._stream.follow()
        for name, (tensor, _) in slots.items():
            self._stream.copy(buffers[name], tensor)
        yield
        self._stream.synchronize()
        for name, (_, put) in slots.items():
            put(buffers[name])
        self.is_offloaded = True

    def onload(self) -> None:
        """Queued: `wait` comes before anyone reads main weights or moments."""
        if not self.is_offloaded:
            return
        slots = self._slots()
        back = {name: self._stream.room_for(tensor) for name, (tensor, _) in slots.items()}
        self._stream.follow()
        for name, (tensor, put) in slots.items():
            self._stream.copy(back[name], tensor)
            put(back[name])
        self._main_weights = {}
        self.is_offloaded = False

    def wait(self) -> None:
        """What the accelerator is given from here on finds the state there. The program itself does not wait."""
        self._stream.be_awaited()

    def _slots(self) -> Slots:
        found: Slots = {}
        for name, tensor in self._main_weights.items():
            found[name] = (tensor.detach(), _puts_data(tensor))
        for name, parameter, one in self._parameters():
            state = one.state.get(parameter, {})
            for key, value in state.items():
                # A count of steps (torch's AdamW) has no dimension and lies on the host.
                if isinstance(value, Tensor) and value.dim() > 0:
                    found[f"{name}.{key}"] = (value.detach(), _puts_item(state, key))
        return found

    def _find_main_weights(self) -> Iterator[tuple[str, Tensor]]:
        of_the_model = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        for name, tensor, _ in self._parameters():
            if tensor.untyped_storage().data_ptr() not in of_the_model:
                yield name, tensor

    def _parameters(self) -> Iterator[tuple[str, Tensor, torch.optim.Optimizer]]:
        """The optimizer's own, each by its position in the groups: a load keeps these, and may replace the rest."""
        for i, one in enumerate(self._optimizer.inner.chained_optimizers):
            for j, group in enumerate(one.optimizer.param_groups):
                for k, tensor in enumerate(group["params"]):
                    yield f"{i}.{j}.{k}", tensor, one.optimizer


def _puts_data(tensor: Tensor) -> Callable[[Tensor], None]:
    def put(other: Tensor) -> None:
        tensor.data = other

    return put


def _puts_item(state: dict[str, Tensor], key: str) -> Callable[[Tensor], None]:
    def put(other: Tensor) -> None:
        state[key] = other

    return put
