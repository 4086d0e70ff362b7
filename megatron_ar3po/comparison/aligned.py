"""Variants side by side at equal steps, responses, tokens or seconds.

- Held-out accuracy is read off the straight line between evaluations, as far as every run has come. A difference is
  paired by seeds: with two pairs or more its interval is Student's; with one, it goes by the standard errors of the two
  evaluations (`eval/pass_at_1_stderr`), which are over prompts.
- Pass rates on the prompts that two runs have both trained on, in the last quarter of the way, are paired by seed and
  prompt, and their interval is resampled over both. Of a prompt's responses those of its first stage count: a prompt
  gets more because it has failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_ar3po.comparison.bootstrap import Resampled, resample_mean
from megatron_ar3po.comparison.compared_runs import ComparedRun, RunGroup
from megatron_ar3po.comparison.statistics import paired_difference, t_interval

Array = np.ndarray[Any, Any]

_Z = 1.959964
_LAST_PART = 0.75  # of the way: what comes after it is the last quarter
_POINTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """This variant less the first one."""

    mean: float
    low: float | None  # None: of one value nothing is known of its spread
    high: float | None
    pairs: int  # of seeds
    prompts: int = 0  # that were paired


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedVariant:
    name: str
    seeds: tuple[int, ...]
    accuracy: tuple[tuple[float | None, float | None, float | None], ...]  # mean, low, high
    minus_first: tuple[Difference | None, ...]  # at the same points
    training_minus_first: Difference | None
    totals: dict[str, float]  # at the end of each run, the mean over them


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedComparison:
    axis: str
    points: tuple[float, ...]
    variants: tuple[AlignedVariant, ...]
    warnings: tuple[str, ...]
    options: tuple[tuple[str, list[str]], ...]  # that differ: the comparison


def align_variants(
    groups: Sequence[RunGroup],
    axis: str,
    *,
    warnings: Sequence[str] = (),
    options: Sequence[tuple[str, list[str]]] = (),
) -> AlignedComparison:
    points = common_points(groups, axis)
    return AlignedComparison(
        axis=axis,
        points=tuple(points.tolist()),
        variants=tuple(_align(group, groups[0], axis, points) for group in groups),
        warnings=tuple(warnings),
        options=tuple(options),
    )


def common_points(groups: Sequence[RunGroup], axis: str, count: int = _POINTS) -> Array:
    """Equal parts of the way that every run has gone, its end the last of them."""
    runs = [run for group in groups for run in group.runs]
    ends = [float(run.positions[axis].max(initial=0.0)) for run in runs]
    return min(ends) * np.arange(1, count + 1) / count


def _align(group: RunGroup, first: RunGroup, axis: str, points: Array) -> AlignedVariant:
    is_first = group is first
    return AlignedVariant(
        name=group.name,
        seeds=tuple(run.seed for run in group.runs),
        accuracy=tuple(_mean_of_runs(group, axis, at) for at in points),
        minus_first=tuple(None if is_first else _subtract(group, first, axis, at) for at in points),
        training_minus_first=None
        if is_first
        else subtract_training(group, first, axis, points[-1]),
        totals={
            name: float(np.mean([run.positions[name].max(initial=0.0) for run in group.runs]))
            for name in group.runs[0].positions
        },
    )


def value_at(run: ComparedRun, name: str, axis: str, at: float) -> float | None:
    """On the straight line between the rows that have it; None beside them."""
    known = [
        (position, value)
        for row, position in zip(run.rows, run.positions[axis], strict=True)
        if (value := row.get(name)) is not None
    ]
    if not known or not known[0][0] <= at <= known[-1][0]:
        return None
    xs, ys = zip(*known, strict=True)
    return float(np.interp(at, xs, ys))


def _mean_of_runs(
    group: RunGroup, axis: str, at: float
) -> tuple[float | None, float | None, float | None]:
    values = [value_at(run, "eval/pass_at_1", axis, at) for run in group.runs]
    if any(value is None for value in values):
        return None, None, None
    interval = t_interval([v for v in values if v is not None])
    assert interval is not None, "a variant has at least one run"
    if interval.count > 1:
        return interval.mean, interval.low, interval.high
    error = value_at(group.runs[0], "eval/pass_at_1_stderr", axis, at)
    if error is None:
        return interval.mean, None, None
    return interval.mean, interval.mean - _Z * error, interval.mean + _Z * error


def _subtract(group: RunGroup, first: RunGroup, axis: str, at: float) -> Difference | None:
    pairs = pairs_by_seed(group, first)
    both = [tuple(value_at(run, "eval/pass_at_1", axis, at) for run in pair) for pair in pairs]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not known or len(known) < len(pairs):
        return None
    interval = paired_difference([a for a, _ in known], [b for _, b in known])
    assert interval is not None, "there are pairs"
    low, high = interval.low, interval.high
    if len(known) == 1:
        errors = [value_at(run, "eval/pass_at_1_stderr", axis, at) for run in pairs[0]]
        if all(error is not None for error in errors):
            half = _Z * math.hypot(*(error or 0.0 for error in errors))
            low, high = interval.mean - half, interval.mean + half
    return Difference(mean=interval.mean, low=low, high=high, pairs=len(known))


def pairs_by_seed(group: RunGroup, first: RunGroup) -> list[tuple[ComparedRun, ComparedRun]]:
    """Runs of one seed; where the two variants share none, the first of each."""
    ours, theirs = group.by_seed, first.by_seed
    shared = [seed for seed in ours if seed in theirs]
    return [(ours[s], theirs[s]) for s in shared] or [(group.runs[0], first.runs[0])]


def subtract_training(
    group: RunGroup, first: RunGroup, axis: str, until: float
) -> Difference | None:
    """On prompts that both runs of a pair visited between three quarters of the way and `until`."""
    found = []
    for pair in pairs_by_seed(group, first):
        ours, theirs = (pass_rates(run, axis, _LAST_PART * until, until) for run in pair)
        shared = [prompt for prompt in ours if prompt in theirs]
        found.append(np.array([ours[prompt] - theirs[prompt] for prompt in shared]))
    resampled: Resampled | None = resample_mean(found)
    if resampled is None:
        return None
    return Difference(
        mean=resampled.mean,
        low=resampled.low,
        high=resampled.high,
        pairs=len(found),
        prompts=sum(map(len, found)),
    )


def pass_rates(run: ComparedRun, axis: str, begin: float, end: float) -> dict[str, float]:
    """By prompt: of the first stages of its visits in the steps that end in (begin, end]."""
    steps = np.array([row["step"] for row in run.rows], dtype=np.int64)
    position = run.positions[axis]
    wanted = steps[(position > begin) & (position <= end) & (steps > 0)]
    visits = run.visits
    first = np.array([stages[0] for stages in visits.outcomes], dtype=np.int64).reshape(-1, 2)
    chosen = np.isin(np.frombuffer(visits.steps, dtype=np.int64), wanted)
    kinds = np.frombuffer(visits.kinds, dtype=np.int64)[chosen]
    prompts = np.frombuffer(visits.prompts, dtype=np.int64)[chosen]
    count = len(visits.prompt_ids)
    graded = np.bincount(prompts, weights=first[kinds, 0], minlength=count)
    correct = np.bincount(prompts, weights=first[kinds, 1], minlength=count)
    return {visits.prompt_ids[i]: float(correct[i] / graded[i]) for i in np.flatnonzero(graded)}
