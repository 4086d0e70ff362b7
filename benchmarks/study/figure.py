"""Stage two as one figure: a column for each task, above its curves, below what each run spent until the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.comparison.figure import mean_curve

from .arms import BUDGETS, Arms, target_of
from .runs import curve_of, spent_until


def draw(tasks: Sequence[Arms], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(kind_of(name) for arms in tasks for name in arms.runs))
    figure: Any
    figure, axes = pyplot.subplots(
        2, len(tasks), figsize=(6 * len(tasks), 8), layout="constrained", squeeze=False
    )
    for arms, (above, below) in zip(tasks, axes.T, strict=True):
        _draw_curves(arms, above, kinds)
        _draw_targets(arms, below, kinds)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _draw_curves(arms: Arms, panel: Any, kinds: Sequence[str]) -> None:
    """Means over seeds with their 95% interval as a band."""
    for name, runs in arms.runs.items():
        spent, means = mean_curve([curve_of(run) for run in runs], "responses")
        color, style = look_of(name, arms, kinds)
        panel.plot(spent, [m.mean for m in means], style, color=color, label=name)
        if all(m.half_width is not None for m in means):
            low, high = [m.low for m in means], [m.high for m in means]
            panel.fill_between(spent, low, high, alpha=0.12, color=color)
    panel.axhline(target_of(arms.task), linestyle=":", color="grey", linewidth=1)
    panel.set_title(f"{arms.task}, {len(arms.seeds)} seeds")
    panel.set_xlabel("responses generated")
    panel.set_ylabel("pass@1, held out")
    panel.legend(fontsize="small", frameon=False)


def _draw_targets(arms: Arms, panel: Any, kinds: Sequence[str]) -> None:
    """A dot a run; an arrow at all it spent where it never crossed."""
    target = target_of(arms.task)
    for row, (name, runs) in enumerate(arms.runs.items()):
        color, _ = look_of(name, arms, kinds)
        for run in runs:
            at, marker = target_mark(*spent_until(run, target))
            panel.plot([at], [row], marker, color=color, alpha=0.7, clip_on=False)
    panel.set_yticks(range(len(arms.runs)), list(arms.runs))
    panel.invert_yaxis()
    panel.set_xlim(0, BUDGETS[arms.task] * 1.05)
    panel.set_xlabel(f"responses to pass@1 {target:.2f}; an arrow: never within the run")


def kind_of(name: str) -> str:
    """
    >>> kind_of("grpo_4_8e-4_6_all"), kind_of("history_replay_8e-4_24")
    ('grpo', 'history_replay')
    """
    return "_".join(name.split("_")[: 2 if name.startswith("history") else 1])


def look_of(name: str, arms: Arms, kinds: Sequence[str]) -> tuple[str, str]:
    """Its colour, the same on all tasks for a kind of history, and its line: dashed for a second one of its kind."""
    kind = kind_of(name)
    first = next(other for other in arms.runs if kind_of(other) == kind)
    return f"C{kinds.index(kind)}", "-" if name == first else "--"


def target_mark(low: float, high: float) -> tuple[float, str]:
    """Where it stands and matplotlib's name for its shape.

    >>> target_mark(600.0, 600.0), target_mark(3000.0, float("inf"))
    ((600.0, 'o'), (3000.0, '>'))
    """
    return (low, ">") if high == float("inf") else ((low + high) / 2, "o")
