"""`Replayer`: rows of earlier steps train beside those of the step (algorithm/replay.py has the rule).

Every leader offers the rows that it owns and that rank first; together they take the smallest ranks of all. So the draw
is uniform over all replicas, and the same at any data-parallel size. The step's own fresh rows are kept for later ones
after the draw: no row comes back in the step that made it, nor twice in one.

A replayed row costs no response and counts as none; metrics know it as `reuse/replayed_*`. It has a position of its own
behind all groups of the step, and the log-probs of the server that sampled it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from megatron_ar3po.algorithm.replay import num_replayed, replay_rank
from megatron_ar3po.records import Max, Mean, Records, Sum
from megatron_ar3po.reuse.recent_rows import RecentRows
from megatron_ar3po.types import ResponseGroup, TrainingSample


class NoReplayer:
    """`reuse.replay_frac=0`. Also what ranks hold that are no leaders."""

    records = Records()

    def draw(
        self, samples: Sequence[TrainingSample], groups: Sequence[ResponseGroup], *, step: int
    ) -> list[TrainingSample]:
        return []

    def sync(self) -> None:
        return None

    def forget_before(self, step: int) -> None:
        return None


class Replayer:
    def __init__(
        self,
        rows: RecentRows,
        *,
        replay_frac: float,
        run_seed: int,
        gather_over_replicas: Callable[[Any], list[Any]] = lambda mine: [mine],
    ) -> None:
        self._rows = rows
        self._replay_frac = replay_frac
        self._run_seed = run_seed
        self._gather = gather_over_replicas
        self.records = Records()  # of the last draw

    def draw(
        self, samples: Sequence[TrainingSample], groups: Sequence[ResponseGroup], *, step: int
    ) -> list[TrainingSample]:
        """Collective over leaders. `samples`, made of `groups`: what trains in the step, of this replica. Returns this
        replica's part of the replayed rows, and keeps the fresh ones of `samples`."""
        num_own = sum(len(group.sampled) for group in groups)
        behind = max((group.position + 1 for group in groups), default=0)
        told = self._gather((len(samples), num_own, behind))
        num_rows, num_responses = (sum(part[i] for part in told) for i in (0, 1))
        chosen = self._choose(num_replayed(num_rows, self._replay_frac), step)
        first = max(part[2] for part in told)
        position_of = {response_id: first + i for i, response_id in enumerate(chosen)}
        mine = [
            (of_step, row)
            for of_step, rows in self._rows.steps.items()
            for row in rows
            if row.response_id in position_of
        ]
        self.records = self._describe(mine, step)
        replayed = [
            replace(
                row,
                group_position=position_of[row.response_id],
                origin="replayed",
                uses_behaviour_logprobs=True,
            )
            for _, row in mine
        ]
        fresh = [sample for sample in samples if sample.origin == "fresh"]
        self._rows.keep(fresh, step=step, num_own=num_own, num_responses=num_responses)
        return sorted(replayed, key=lambda row: row.group_position)

    def sync(self) -> None:
        """Before a checkpoint: what was kept is on the disk when this returns."""
        self._rows.sync()

    def forget_before(self, step: int) -> None:
        """No resume will go back before the end of `step`."""
        self._rows.forget_before(step)

    def _choose(self, num: int, step: int) -> list[str]:
        """Response ids of all replicas, by rank."""
        ranked = sorted(
            (replay_rank(self._run_seed, step, row.response_id), row.response_id)
            for rows in self._rows.steps.values()
            for row in rows
        )
        offered = [pair for part in self._gather(ranked[:num]) for pair in part]
        return [response_id for _, response_id in sorted(offered)[:num]]

    def _describe(self, mine: Sequence[tuple[int, TrainingSample]], step: int) -> Records:
        records = Records(
            {
                "reuse/replayed_rows": Sum(len(mine)),
                "reuse/replayed_tokens": Sum(sum(row.num_response_tokens for _, row in mine)),
                "reuse/replay_window_rows": Sum(sum(map(len, self._rows.steps.values()))),
                "reuse/replay_window_responses": Max(self._rows.num_responses),
            }
        )
        for of_step, _ in mine:
            records.add("reuse/replayed_age_steps", Mean(step - of_step))
        return records
