"""The runs of a study, as their curves are kept: a line of a file is a run, so that seeds may be run on several days
and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_ar3po.comparison import curves
from megatron_ar3po.comparison.curves import Axis, Point, RunCurve, costs_of, position_after
from megatron_ar3po.observability.row_file import read_rows

RESULTS = Path(__file__).resolve().parents[1] / "results" / "history_study"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation of a run, and what the run had spent until then."""

    step: int
    responses: float
    tokens: float
    seconds: float  # of steps
    accuracy: Mapping[str, float]  # "pass_at_1", "easy/pass_at_1", "train_easy/pass_at_4", ...
    entropy: float | None  # nats a token, the mean over the steps since the evaluation before


@dataclass(frozen=True, kw_only=True)
class Run:
    variant: str
    seed: int
    points: tuple[Evaluated, ...]


def read_run(folder: Path, variant: str, seed: int) -> Run:
    points: list[Evaluated] = []
    entropies: list[float] = []
    responses = tokens = seconds = 0.0
    for row in read_rows(folder / "metrics.jsonl"):
        responses = position_after(row, "responses", responses)
        tokens = position_after(row, "tokens", tokens)
        seconds += row.get("time/step_s") or 0
        if row.get("actor/entropy") is not None:
            entropies.append(row["actor/entropy"])
        if row.get("eval/pass_at_1") is None:
            continue
        points.append(
            Evaluated(
                step=row["step"],
                responses=responses,
                tokens=tokens,
                seconds=round(seconds, 2),
                accuracy=accuracy_of(row),
                entropy=round(fmean(entropies), 5) if entropies else None,
            )
        )
        entropies.clear()
    return Run(variant=variant, seed=seed, points=tuple(points))


def accuracy_of(row: Mapping[str, Any]) -> dict[str, float]:
    """
    >>> accuracy_of({"eval/pass_at_1": 0.5, "eval/source/easy/pass_at_1": 0.9, "eval/set/train_easy/pass_at_4": 1.0,
    ...              "eval/tokens": 7, "step": 3})
    {'pass_at_1': 0.5, 'easy/pass_at_1': 0.9, 'train_easy/pass_at_4': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        short = name.removeprefix("eval/").removeprefix("source/").removeprefix("set/")
        if name.startswith("eval/") and short.endswith(("pass_at_1", "pass_at_4")):
            found[short] = round(value, 5)
    return found


def collect(name: str, comparison: Path, results: Path = RESULTS) -> str:
    """Adds the finished runs of a comparison to a file of curves; a run that is there already is kept as it is.
    Raises ValueError where there is none."""
    marks = sorted(comparison.glob("runs/*/comparison.json"))
    if not marks:
        raise ValueError(
            f"{comparison} holds no finished run of a comparison; name the --out of `ar3po compare-algorithms`."
        )
    path = results / f"{name}.jsonl"
    known = {(run.variant, run.seed): run for run in read_runs(name, results)}
    num_before = len(known)
    for mark in marks:
        variant, _, seed = mark.parent.name.rpartition("-s")
        if (variant, int(seed)) not in known:
            known[variant, int(seed)] = read_run(mark.parent, variant, int(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(known[key])) for key in sorted(known)]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return f"{path}: {len(known)} runs, {len(known) - num_before} of them new"


def read_runs(name: str, results: Path = RESULTS) -> list[Run]:
    path = results / f"{name}.jsonl"
    if not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        Run(
            variant=run["variant"],
            seed=run["seed"],
            points=tuple(Evaluated(**point) for point in run["points"]),
        )
        for run in found
    ]


def curve_of(run: Run, name: str = "pass_at_1") -> RunCurve:
    """Of one of its accuracies, as the functions of a comparison want it."""
    points = [
        Point(
            step=at.step,
            accuracy=at.accuracy[name],
            responses=at.responses,
            tokens=at.tokens,
            seconds=at.seconds,
        )
        for at in run.points
    ]
    none = costs_of([])
    return RunCurve(
        points=tuple(points), spent={}, costs=none, late_costs=none, steps=(), num_steps=0
    )


def accuracy_at(run: Run, responses: float, name: str = "pass_at_1") -> float:
    """On the straight line between evaluations; at the last one where the run ends before."""
    found = curves.accuracy_at(curve_of(run, name), "responses", responses)
    return run.points[-1].accuracy[name] if found is None else found


def spent_until(run: Run, target: float, unit: Axis = "responses") -> tuple[float, float]:
    """Between which ends lies what the run had spent when pass@1 first reached the target."""
    spent = curves.spent_until(curve_of(run), unit, target)
    return spent.low, spent.high
