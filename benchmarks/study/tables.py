"""Stage two: the tables and verdicts of docs/comparison.md, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from megatron_ar3po.comparison.curves import Axis
from megatron_ar3po.comparison.statistics import bounded_ratio, paired_difference, t_interval

from .arms import BASELINES, BUDGETS, Arms, read_arms, target_of
from .runs import RESULTS, Run

THIRDS = ("core", "mixed", "easy")


def tell_table(arms: Arms) -> str:
    names = list(arms.runs)
    rows = [["", *names]]
    for part in (0.2, 0.4, 0.5, 0.6, 0.8, 1.0):
        label = f"pass@1 at {BUDGETS[arms.task] * part:,.0f} responses"
        rows.append([label, *(show_mean(arms.accuracies(n, part, "pass_at_1")) for n in names)])
    for name in ("pass_at_4", *(f"{third}/pass_at_1" for third in THIRDS), "easy/pass_at_4"):
        for part, when in ((0.5, "half"), (1.0, "end")):
            rows.append(
                [f"{name}, {when}", *(show_mean(arms.accuracies(n, part, name)) for n in names)]
            )
    for name in (f"train_{third}/pass_at_1" for third in THIRDS):
        rows.append([f"{name}, end", *(show_mean(arms.accuracies(n, 1.0, name)) for n in names)])
    rows.append(["entropy, half", *(show_entropy(arms.runs[n], 0.5) for n in names)])
    rows.append(["entropy, end", *(show_entropy(arms.runs[n], 1.0) for n in names)])
    target = target_of(arms.task)
    rows.append(
        [f"responses to {target:.2f}", *(show_spent(arms.spent(n, "responses")) for n in names)]
    )
    rows.append(
        [
            f"seconds of steps to {target:.2f}",
            *(show_spent(arms.spent(n, "seconds")) for n in names),
        ]
    )
    rows.append(
        [
            "seconds of steps in all",
            *(show_mean([r.points[-1].seconds for r in arms.runs[n]], 0) for n in names),
        ]
    )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def tell_verdict(arms: Arms) -> str:
    """The factor of the rules, and what must not be lost for it."""
    ours, theirs = arms.cheapest(["history"]), arms.cheapest(BASELINES)
    lines = [
        f"best history arm {ours}, best baseline {theirs}, seeds {arms.seeds}",
        f"factor {show_factor(arms, theirs, ours)}",
    ]
    for arm in arms.of_families(["history"]):
        lines += [
            f"{arm} against {baseline}: {show_factor(arms, baseline, arm)}, "
            f"of seconds {show_factor(arms, baseline, arm, 'seconds')}"
            for baseline in arms.of_families(BASELINES)
        ]
    for name in ("pass_at_1", "pass_at_4", "easy/pass_at_1", "easy/pass_at_4"):
        for part in (0.5, 1.0):
            ours_at, theirs_at = (arms.accuracies(arm, part, name) for arm in (ours, theirs))
            change = paired_difference(ours_at, theirs_at)
            assert change is not None
            spread = "" if change.half_width is None else f" ± {change.half_width:.3f}"
            lines.append(f"{name} at {part:.0%}: {change.mean:+.3f}{spread}")
    return "\n".join(f"- {line}" for line in lines)


def show_factor(arms: Arms, theirs: str, ours: str, unit: Axis = "responses") -> str:
    factor = bounded_ratio(arms.spent(theirs, unit), arms.spent(ours, unit))
    if factor is None:
        return "not known from either side"
    ratio = factor.ratio
    said = (
        "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    )
    return f"{factor.side} {ratio.mean:.2f}{said}"


def show_mean(values: Sequence[float], digits: int = 3) -> str:
    interval = t_interval(values)
    assert interval is not None
    spread = "" if interval.half_width is None else f" ± {interval.half_width:.{digits}f}"
    return f"{interval.mean:.{digits}f}{spread}"


def show_spent(spent: Sequence[tuple[float, float]]) -> str:
    """
    >>> show_spent([(100.0, 100.0), (300.0, math.inf)])
    '≥ 200 (1/2)'
    """
    crossed = sum(math.isfinite(high) for _, high in spent)
    mark = "" if crossed == len(spent) else "≥ "
    return f"{mark}{fmean(low for low, _ in spent):,.0f} ({crossed}/{len(spent)})"


def show_entropy(runs: Sequence[Run], part: float) -> str:
    """Of the evaluation nearest to that part of the run."""
    values: list[float] = []
    for run in runs:
        wanted = run.points[-1].responses * part
        nearest = min(run.points[1:], key=lambda p: abs(p.responses - wanted))
        if nearest.entropy is not None:
            values.append(nearest.entropy)
    return f"{fmean(values):.3f}" if values else "-"


def tell_results(task: str, stage: str = "", results: Path = RESULTS) -> str:
    arms = read_arms(task, stage, results)
    if arms is None:
        return f"## {stage}{task}: no seed that every arm has finished"
    return (
        f"## {stage}{task}, {len(arms.seeds)} seeds\n\n{tell_table(arms)}\n\n{tell_verdict(arms)}"
    )
