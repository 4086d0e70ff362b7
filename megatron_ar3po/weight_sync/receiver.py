"""Who gets weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receiver:
    """One server, as a publish sees it."""

    url: str
    # Of the run: beside which rank each of its tensor-parallel ranks sits, on the same GPU where there are GPUs.
    ranks: tuple[int, ...] = (0,)
