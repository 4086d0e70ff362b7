"""A stand-in for a stream of a GPU: it copies when it is waited for, and until then its targets hold no value."""

from __future__ import annotations

import torch
from torch import Tensor


class LateCopies:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self._queued: list[tuple[Tensor, Tensor]] = []

    def follow(self) -> None:
        self.calls.append("follow")

    def room_for(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.calls.append("copy")
        with torch.no_grad():
            target.fill_(float("nan"))
        self._queued.append((target, source))

    def be_awaited(self) -> None:
        self.calls.append("await")
        self._copy_all()

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        self._copy_all()

    def _copy_all(self) -> None:
        queued, self._queued = self._queued, []
        with torch.no_grad():
            for target, source in queued:
                target.copy_(source)
