"""One run's metrics.jsonl -> its accuracy against what it had spent, and what that came to.

Costs are counted as everywhere in this project (`sampling_cost`): every response that a server has generated for
training is cost, discarded, cancelled and done again ones included; evaluation is not, and seconds are those of
training steps (start-up, evaluation and checkpoints are not in them). Along a curve what a kill made a run do again
counts once, so that the steps stand where they would stand without it; `RunCurve.spent` has it all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_ar3po.observability.row_file import read_rows

Axis = Literal["responses", "tokens", "seconds"]
AXES: tuple[Axis, ...] = ("responses", "tokens", "seconds")
OUTCOMES = ("all_correct", "mixed", "rescued", "all_wrong", "verifier_error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An evaluation, and what had been generated and spent until then, nothing of it twice."""

    step: int
    accuracy: float  # pass@1 on held-out prompts
    responses: float
    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Means over some steps of a run; None where the divisor is 0."""

    responses_per_prompt: float | None  # of all prompts drawn: the paper's 5.7 for AR3PO
    responses_per_filled_slot: float | None  # of the groups a step kept: the paper's 24 for DAPO
    responses_per_signal_group: float | None
    signal_share: float | None  # groups that carry gradient, of all prompts drawn
    outcomes: Mapping[str, float]  # of the groups kept


@dataclass(frozen=True, slots=True)
class StepCounts:
    responses: float  # generated until then, this step's included, nothing of it twice
    prompts: float  # drawn in this step
    signal_groups: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurve:
    points: tuple[Point, ...]  # in order, at least one
    spent: Mapping[Axis, float]  # until the last of them, what was done again included
    costs: Costs  # of the whole run
    late_costs: Costs  # of the last quarter of its steps
    steps: tuple[StepCounts, ...]
    num_steps: int


def read_curve(path: Path, max_responses: int = 0) -> RunCurve:
    """`max_responses` > 0: what comes after the first evaluation at or beyond them is left out, so that a run says the
    same however late it was stopped. Raises ValueError when the file holds no evaluation."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; the run wrote no metrics.")
    return curve_of(read_rows(path), max_responses, name=str(path))


def curve_of(rows: Sequence[dict[str, Any]], max_responses: int = 0, *, name: str = "") -> RunCurve:
    points: list[Point] = []
    responses = tokens = seconds = 0.0
    spent: dict[Axis, float] = {}
    kept: list[dict[str, Any]] = []
    for row in rows:
        responses = position_after(row, "responses", responses)
        tokens = position_after(row, "tokens", tokens)
        seconds += row.get("time/step_s") or 0
        if row["step"] > 0:
            kept.append(row)
        accuracy = row.get("eval/pass_at_1")
        if accuracy is None:
            continue
        points.append(
            Point(
                step=row["step"],
                accuracy=accuracy,
                responses=responses,
                tokens=tokens,
                seconds=seconds,
            )
        )
        spent = {
            "responses": responses + _redone(row, "responses"),
            "tokens": tokens + _redone(row, "tokens"),
            "seconds": seconds,
        }
        if max_responses and responses >= max_responses:
            break
    if not points:
        raise ValueError(
            f"{name} holds no evaluation (eval/pass_at_1); set evaluation.path and evaluation.every_steps."
        )
    steps = [row for row in kept if row["step"] <= points[-1].step]
    late = steps[-max(len(steps) // 4, 1) :]
    return RunCurve(
        points=tuple(points),
        spent=spent,
        costs=costs_of(steps),
        late_costs=costs_of(late),
        steps=tuple(_step_counts(steps)),
        num_steps=len(steps),
    )


def position_after(row: Mapping[str, Any], unit: str, before: float = 0.0) -> float:
    """How far a run has come: its own total, less what it did again; the steps' sum for rows that have no total."""
    total = row.get(f"rollout/{unit}_total")
    if total is None:
        return before + (row.get(f"rollout/{unit}_generated") or 0)
    return total - _redone(row, unit)


def _redone(row: Mapping[str, Any], unit: str) -> float:
    return row.get(f"rollout/cost/redone_{unit}_total") or 0


def _step_counts(rows: Sequence[Mapping[str, Any]]) -> Iterator[StepCounts]:
    responses = 0.0
    for row in rows:
        responses = position_after(row, "responses", responses)
        yield StepCounts(
            responses, row.get("rollout/prompts") or 0, row.get("group/signal_groups") or 0
        )


def costs_of(rows: Sequence[Mapping[str, Any]]) -> Costs:
    """Two steps, DAPO with 4 slots: 64 responses for 8 prompts, 4 groups kept; 96 for 12, 4 kept. 160 responses are 8
    for each of 20 prompts and 20 for each of 8 filled slots."""
    responses = _total(rows, "rollout/responses_generated")
    prompts = _total(rows, "rollout/prompts")
    signal = _total(rows, "group/signal_groups")
    slots = sum(_filled_slots(row) for row in rows)
    return Costs(
        responses_per_prompt=_ratio(responses, prompts),
        responses_per_filled_slot=_ratio(responses, slots),
        responses_per_signal_group=_ratio(responses, signal),
        signal_share=_ratio(signal, prompts),
        outcomes={
            name: sum((r.get(f"group/{name}_frac") or 0) * _filled_slots(r) for r in rows) / slots
            for name in OUTCOMES
            if slots
        },
    )


def _filled_slots(row: Mapping[str, Any]) -> float:
    """Groups a step kept. Version 0.1 wrote no number of them, but what one cost where some were discarded."""
    if (filled := row.get("rollout/filled_slots")) is not None:
        return filled
    per_slot = row.get("rollout/responses_per_filled_slot")
    if per_slot:
        return row["rollout/responses_generated"] / per_slot
    return row.get("rollout/prompts") or 0


def accuracy_at(curve: RunCurve, axis: Axis, spent: float) -> float | None:
    """On the straight line between evaluations; None beyond the last one.

    Accuracy 0.4 at 0 and 0.6 at 1,000 responses is 0.45 at 250.
    """
    for before, after in zip(curve.points, curve.points[1:], strict=False):
        low, high = getattr(before, axis), getattr(after, axis)
        if low <= spent <= high:
            part = (spent - low) / (high - low) if high > low else 1.0
            return before.accuracy + part * (after.accuracy - before.accuracy)
    first = curve.points[0]
    return first.accuracy if spent == getattr(first, axis) else None


def no_signal_share(curve: RunCurve, responses: float) -> float | None:
    """Of the prompts drawn until so many responses were generated, the step that came to them included.

    4 prompts with 3 signal groups for 20 responses, then 4 with 1 for 30: 0.25 at 20, 0.5 at 50, of 8 prompts.
    """
    prompts = signal = 0.0
    for step in curve.steps:
        prompts += step.prompts
        signal += step.signal_groups
        if step.responses >= responses:
            break
    return 1 - signal / prompts if prompts else None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run had spent when it first reached a target: `low` to `high`. One number where the crossing lies between
    two evaluations; at most that of the first evaluation where it had crossed by then; at least all it spent where it
    never did (`high` is infinite)."""

    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        return self.low == self.high

    @property
    def is_open(self) -> bool:
        """It never crossed."""
        return math.isinf(self.high)


def spent_until(curve: RunCurve, axis: Axis, target: float) -> Spent:
    """Where the straight line between evaluations first reaches `target`.

    From 0.4 at 0 to 0.6 at 1,000 responses, 0.5 is reached after 500, 0.7 after 1,000 at least, and 0.3 by the first
    evaluation: within 0.
    """
    if curve.points[0].accuracy >= target:
        return Spent(0.0, getattr(curve.points[0], axis))
    for before, after in zip(curve.points, curve.points[1:], strict=False):
        if after.accuracy >= target:
            low, high = getattr(before, axis), getattr(after, axis)
            part = (target - before.accuracy) / (after.accuracy - before.accuracy)
            crossing = low + part * (high - low)
            return Spent(crossing, crossing)
    return Spent(getattr(curve.points[-1], axis), math.inf)


def _total(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row.get(name) or 0 for row in rows)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
