"""`Ranks` of a run with one process: every collective is its own value. What a unit test needs beside is a field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.rank_watch import RankWatch


@dataclass
class OneRank:
    layout: ParallelLayout = field(default_factory=ParallelLayout)
    watch: RankWatch = field(default_factory=lambda: RankWatch(rank=0, world_size=1))
    is_leader: bool = True
    is_first: bool = True

    def gather(self, value: Any) -> list[Any]:
        return [value]

    gather_over_replicas = gather

    def broadcast(self, value: Any) -> Any:
        return value

    def run_on_leader(self, task: Callable[[], Any]) -> Any:
        return task()

    run_on_first = only_on_leader = only_on_first = run_on_leader

    def offer(self, name: str, service: Callable[..., None]) -> None:
        """Nobody asks for it."""

    def barrier(self) -> None:
        """Nobody is waited for."""

    def any(self, flag: bool) -> bool:
        return flag

    def agree_on_error(self, error: Exception | None) -> None:
        if error is not None:
            raise error
