"""All runs of a comparison -> its figures: each variant's own, and the differences from the first variant.

Only seeds that every variant has finished count, so every mean is over the same seeds and every difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_ar3po.comparison.curves import (
    AXES,
    OUTCOMES,
    Axis,
    RunCurve,
    accuracy_at,
    no_signal_share,
    read_curve,
    spent_until,
)
from megatron_ar3po.comparison.experiment import Experiment
from megatron_ar3po.comparison.runner import is_finished, metrics_path
from megatron_ar3po.comparison.statistics import (
    BoundedRatio,
    Interval,
    bounded_ratio,
    paired_difference,
    t_interval,
)

Curves = Mapping[str, Sequence[RunCurve]]  # variant -> one curve a seed, the same seeds for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What the target cost."""

    spent: Interval | None  # None unless every run's cost is known
    at_least: float | None  # the mean, where some never crossed: these count with all they spent
    at_most: (
        float | None
    )  # the mean, where some had crossed by their first evaluation: these count with what it cost
    num_reached: int
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimesFirst:
    """What the target cost this variant, in units of what it cost the first one, seed by seed."""

    bound: BoundedRatio | None  # None: of neither side anything is known
    num_never: int  # seeds in which this one never crossed
    num_first_never: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    name: str
    before: Interval
    after: Interval  # at the last evaluation, wherever that lies
    spent: Mapping[Axis, Interval]  # at the last evaluation
    accuracy_at_responses: Mapping[int, Interval | None]  # None: not every seed got that far
    minus_first: Mapping[
        int, Interval | None
    ]  # first variant - this one, paired, at equal responses
    no_signal: Interval | None  # share of the prompts drawn until the last budget
    first_minus_no_signal: Interval | None  # first variant - this one, paired
    to_target: Mapping[Axis, Reached]
    to_target_times_first: Mapping[Axis, TimesFirst | None]  # None: the first one
    costs: Mapping[str, Interval | None]
    late_costs: Mapping[str, Interval | None]  # of the last quarter of the steps
    outcomes: Mapping[str, Interval | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    seeds: tuple[int, ...]
    target: float
    budgets: tuple[int, ...]  # responses at which accuracies are compared
    variants: tuple[VariantResult, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_curves(
    experiment: Experiment, out: Path
) -> tuple[tuple[int, ...], dict[str, list[RunCurve]]]:
    """The seeds that every variant has finished, and their curves. Raises ValueError when there is none."""
    seeds = tuple(
        seed
        for seed in experiment.seeds
        if all(is_finished(experiment, out, variant, seed) for variant in experiment.variants)
    )
    if not seeds:
        raise ValueError(
            f"{out}: no seed has been finished by every variant, so there is nothing to compare; "
            f"the logs are in {out / 'logs'}."
        )
    return seeds, {
        variant.name: [
            read_curve(metrics_path(out, variant, seed), experiment.responses) for seed in seeds
        ]
        for variant in experiment.variants
    }


def compare(
    curves: Curves, *, seeds: Sequence[int], target: float, num_budgets: int = 5, responses: int = 0
) -> Comparison:
    """Budgets are `num_budgets` equal parts of `responses`, to which every run has come; 0: of the most responses that
    every run has."""
    common = min(curve.points[-1].responses for runs in curves.values() for curve in runs)
    common = min(common, responses or common)
    budgets = tuple(int(common * part / num_budgets) for part in range(1, num_budgets + 1))
    first = next(iter(curves.values()))
    return Comparison(
        seeds=tuple(seeds),
        target=target,
        budgets=budgets,
        variants=tuple(
            _variant_result(name, runs, first, budgets, target) for name, runs in curves.items()
        ),
    )


def _variant_result(
    name: str,
    runs: Sequence[RunCurve],
    first: Sequence[RunCurve],
    budgets: Sequence[int],
    target: float,
) -> VariantResult:
    last = [run.points[-1] for run in runs]
    return VariantResult(
        name=name,
        before=_require_interval([run.points[0].accuracy for run in runs]),
        after=_require_interval([point.accuracy for point in last]),
        spent={axis: _require_interval([run.spent[axis] for run in runs]) for axis in AXES},
        accuracy_at_responses={at: _interval_of_all(_accuracies(runs, at)) for at in budgets},
        minus_first={
            at: None
            if runs is first
            else _difference_of_pairs(_accuracies(first, at), _accuracies(runs, at))
            for at in budgets
        },
        no_signal=_interval_of_all(_no_signal(runs, budgets)),
        first_minus_no_signal=None
        if runs is first
        else _difference_of_pairs(_no_signal(first, budgets), _no_signal(runs, budgets)),
        to_target={axis: _measure_reached(runs, axis, target) for axis in AXES} if target else {},
        to_target_times_first={
            axis: None if runs is first else _times_first(runs, first, axis, target)
            for axis in (AXES if target else ())
        },
        costs=_costs([run.costs for run in runs]),
        late_costs=_costs([run.late_costs for run in runs]),
        outcomes={
            outcome: t_interval([run.costs.outcomes.get(outcome, 0.0) for run in runs])
            for outcome in OUTCOMES
        },
    )


def _accuracies(runs: Sequence[RunCurve], responses: int) -> list[float | None]:
    return [accuracy_at(run, "responses", responses) for run in runs]


def _no_signal(runs: Sequence[RunCurve], budgets: Sequence[int]) -> list[float | None]:
    return [no_signal_share(run, budgets[-1]) for run in runs]


def _interval_of_all(values: Sequence[float | None]) -> Interval | None:
    """A mean over fewer runs than the others' would not be comparable."""
    present = [value for value in values if value is not None]
    return t_interval(present) if len(present) == len(values) else None


def _difference_of_pairs(
    one: Sequence[float | None], other: Sequence[float | None]
) -> Interval | None:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(pairs) < len(one):
        return None
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])


def _measure_reached(runs: Sequence[RunCurve], axis: Axis, target: float) -> Reached:
    spent = [spent_until(run, axis, target) for run in runs]
    lows, highs = [each.low for each in spent], [each.high for each in spent]
    num_open = sum(each.is_open for each in spent)
    is_known = all(each.is_exact for each in spent)
    had_crossed = any(not each.is_exact and not each.is_open for each in spent)
    return Reached(
        spent=t_interval(lows) if is_known else None,
        at_least=fmean(lows) if num_open else None,
        at_most=fmean(highs) if had_crossed and not num_open else None,
        num_reached=len(runs) - num_open,
        num_runs=len(runs),
    )


def _times_first(
    runs: Sequence[RunCurve], first: Sequence[RunCurve], axis: Axis, target: float
) -> TimesFirst:
    ours = [spent_until(run, axis, target) for run in runs]
    theirs = [spent_until(run, axis, target) for run in first]
    return TimesFirst(
        bound=bounded_ratio([(s.low, s.high) for s in ours], [(s.low, s.high) for s in theirs]),
        num_never=sum(each.is_open for each in ours),
        num_first_never=sum(each.is_open for each in theirs),
    )


def _costs(costs: Sequence[Any]) -> dict[str, Interval | None]:
    names = (
        "responses_per_prompt",
        "responses_per_filled_slot",
        "responses_per_signal_group",
        "signal_share",
    )
    return {name: _interval_of_all([getattr(cost, name) for cost in costs]) for name in names}


def _require_interval(values: Sequence[float]) -> Interval:
    interval = t_interval(values)
    assert interval is not None, "a comparison has at least one seed"
    return interval
