"""Stage two: the runs of a task that every arm has finished, what they spent until the target, and the cheapest arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from megatron_ar3po.comparison.curves import Axis

from .runs import RESULTS, Run, accuracy_at, read_runs, spent_until
from .winners import FAMILIES, score_settings

TARGETS: Mapping[str, float] = {"tiny_sum": 0.60, "tiny_sum_core": 0.40}
BUDGETS: Mapping[str, int] = {"tiny_sum": 3000, "tiny_sum_core": 4500, "tiny_sum_wide": 6000}
BASELINES = ("grpo", "dapo", "ar3po")


def target_of(task: str) -> float:
    """Of the wide task what GRPO's best setting had after 2,000 responses in stage one, rounded down to a hundredth."""
    if task in TARGETS:
        return TARGETS[task]
    tuning = read_runs(f"tuning_{task}")
    best = next(s for s in score_settings(tuning) if s.family == "grpo")
    reached = fmean(accuracy_at(run, 2000) for run in tuning if run.variant == best.name)
    return math.floor(reached * 100) / 100


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The runs of stage two of a task that every arm has finished, by arm, seeds in order."""

    task: str
    runs: Mapping[str, Sequence[Run]]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in next(iter(self.runs.values()))]

    def of_families(self, families: Sequence[str]) -> list[str]:
        return [arm for arm in self.runs if arm.split("_")[0] in families]

    def cheapest(self, families: Sequence[str]) -> str:
        """The fewest responses to the target, the mean of logarithms; who never crosses counts with all it spent."""
        target = target_of(self.task)

        def cost(arm: str) -> float:
            return fmean(math.log(max(spent_until(r, target)[0], 1.0)) for r in self.runs[arm])

        return min(self.of_families(families), key=cost)

    def spent(self, arm: str, unit: Axis) -> list[tuple[float, float]]:
        return [spent_until(run, target_of(self.task), unit) for run in self.runs[arm]]

    def accuracies(self, arm: str, part: float, name: str) -> list[float]:
        return [accuracy_at(run, BUDGETS[self.task] * part, name) for run in self.runs[arm]]


def read_arms(task: str, stage: str = "", results: Path = RESULTS) -> Arms | None:
    """Of a later stage with its name: "confirmation_"."""
    runs = read_runs(f"{stage}{task}", results)
    names = sorted(
        {run.variant for run in runs}, key=lambda name: (FAMILIES.index(name.split("_")[0]), name)
    )
    whole = (
        set.intersection(*({r.seed for r in runs if r.variant == n} for n in names))
        if names
        else ()
    )
    if not whole:
        return None
    return Arms(
        task=task,
        runs={
            n: sorted((r for r in runs if r.variant == n and r.seed in whole), key=lambda r: r.seed)
            for n in names
        },
    )
