"""Where the seconds of a run went, from the `time/NAME_s` of its rows: a tree of phases in which nothing is left out.

What a phase spent in none of its parts is a line of its own, `unaccounted`, so that the parts of every phase add up to
it and the top ones to the wall clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from megatron_ar3po.observability.timeline import WALL, parent_of

UNACCOUNTED = "unaccounted"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSeconds:
    """One phase, over all rows. `key`: as in `time/KEY_s`, or `WHOLE/unaccounted`."""

    key: str
    depth: int  # 0 for a part of the wall clock
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    wall_s: float
    steps: int
    steps_s: float
    phases: tuple[PhaseSeconds, ...]  # each followed by its parts, the longest first
    unaccounted_of_steps: float  # share of the seconds of steps that no part of a step has


def split_of(rows: Sequence[Mapping[str, Any]]) -> TimeSplit | None:
    """None for rows that do not know their wall clock."""
    seconds: Counter[str] = Counter()
    for row in rows:
        for key, value in row.items():
            if key.startswith("time/") and value:
                seconds[key.removeprefix("time/").removesuffix("_s")] += value
    wall_s = seconds.pop(WALL, 0.0)
    if not wall_s:
        return None
    phases = tuple(_parts("", wall_s, dict(seconds), 0))
    lost = sum(
        p.seconds
        for p in phases
        if p.key.endswith(f"/{UNACCOUNTED}") and "step" in _wholes_of(p.key)
    )
    return TimeSplit(
        wall_s=wall_s,
        steps=sum(row["step"] > 0 for row in rows),
        steps_s=seconds["step"],
        phases=phases,
        unaccounted_of_steps=lost / seconds["step"] if seconds["step"] else 0.0,
    )


def _parts(
    whole: str, seconds_of_whole: float, seconds: Mapping[str, float], depth: int
) -> Iterator[PhaseSeconds]:
    parts = sorted((n for n in seconds if parent_of(n) == whole), key=lambda n: -seconds[n])
    for name in parts:
        yield PhaseSeconds(key=name, depth=depth, seconds=seconds[name])
        yield from _parts(name, seconds[name], seconds, depth + 1)
    if parts:
        rest = max(0.0, seconds_of_whole - sum(seconds[name] for name in parts))
        key = f"{whole}/{UNACCOUNTED}" if whole else UNACCOUNTED
        yield PhaseSeconds(key=key, depth=depth, seconds=rest)


def _wholes_of(key: str) -> Iterator[str]:
    """What it is a part of, from the inside out.

    >>> list(_wholes_of("rollout/ledger"))
    ['rollout', 'step']
    """
    while key := parent_of(key):
        yield key


def table_of(split: TimeSplit) -> Table:
    table = Table(title=f"where {split.wall_s:.0f} s went")
    for header in ("", "seconds", "of all"):
        table.add_column(header, justify="left" if not header else "right")
    for phase in split.phases:
        share = phase.seconds / split.wall_s
        if share >= 0.001 or phase.depth == 0:
            name = "  " * phase.depth + phase.key.rpartition("/")[2].replace("_", " ")
            table.add_row(name, f"{phase.seconds:.2f}", f"{share:.1%}")
    if split.steps_s:
        lost = split.unaccounted_of_steps
        table.add_section()
        table.add_row(
            "unaccounted, of the steps", f"{lost * split.steps_s:.2f}", f"{lost:.1%} of them"
        )
    return table
