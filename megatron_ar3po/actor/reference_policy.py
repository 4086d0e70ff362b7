"""The reference policy of a KL term: a copy of the policy's weights in host memory.

It is the policy at the start of the run, or as it was at the last refresh (`algorithm.reference_refresh_steps`). When
its log-probs are asked for it takes the place of the current weights, so that the accelerator never holds two copies.
After a refresh it can be found nowhere else, so a checkpoint holds it from then on (`model/reference`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ar3po.actor import checkpoint
from megatron_ar3po.actor.background_save import BackgroundSave
from megatron_ar3po.actor.model import PolicyModel

FOLDER = "reference"


class ReferencePolicy:
    def __init__(self, policy: PolicyModel) -> None:
        self._policy = policy
        self._weights = self._on_host()
        self._is_the_first = True

    def refresh(self) -> None:
        """The policy as it is now."""
        self._weights = self._on_host()
        self._is_the_first = False

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The policy's parameters hold the reference's weights meanwhile."""
        current = self._on_host()
        self._put(self._weights)
        try:
            yield
        finally:
            self._put(current)

    def save(self, folder: Path) -> list[BackgroundSave]:
        """Collective over all ranks, beside the policy's checkpoint in `folder`; nothing before the first refresh."""
        if self._is_the_first:
            return []
        if dist.get_rank() == 0:
            (folder / FOLDER).mkdir()
        dist.barrier()
        with self.swapped_in():
            return [checkpoint.save_weights(folder / FOLDER, self._policy)]

    def load(self, folder: Path) -> None:
        """Collective over all ranks. Without one in `folder` it stays the policy at the start of the run."""
        if not (folder / FOLDER).is_dir():
            return
        current = self._on_host()
        checkpoint.load_weights(folder / FOLDER, self._policy)
        self.refresh()
        self._put(current)

    def _on_host(self) -> dict[str, Tensor]:
        return {n: p.detach().to("cpu", copy=True) for n, p in self._policy.named_parameters()}

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._policy.named_parameters():
            parameter.copy_(weights[name], non_blocking=True)
