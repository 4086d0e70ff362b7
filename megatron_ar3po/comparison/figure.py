"""The comparison as one figure: accuracy against responses, tokens and seconds, and the share of groups by signal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.comparison.curves import AXES, OUTCOMES, Axis, RunCurve, accuracy_at
from megatron_ar3po.comparison.results import Comparison, Curves, Reached
from megatron_ar3po.comparison.statistics import Interval, t_interval

_GRID = 60  # points of a mean curve
_LABELS = {
    "responses": "responses generated",
    "tokens": "tokens generated",
    "seconds": "seconds of steps",
}


def draw(comparison: Comparison, curves: Curves, path: Path) -> None:
    """Means with their 95% interval as a band; each curve ends where its first run ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure: Any
    figure, axes = pyplot.subplots(1, 4, figsize=(18, 4.6), layout="constrained")
    for axis, panel in zip(AXES, axes, strict=False):
        for name, runs in curves.items():
            spent, means = mean_curve(runs, axis)
            [line] = panel.plot(spent, [m.mean for m in means], label=name)
            if all(m.half_width is not None for m in means):
                low, high = [m.low for m in means], [m.high for m in means]
                panel.fill_between(spent, low, high, alpha=0.15, color=line.get_color())
        if comparison.target:
            _draw_target(comparison, axis, panel)
        panel.set_xlabel(_LABELS[axis])
        panel.set_ylabel("pass@1, held out")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=8, frameon=False)
    _draw_outcomes(comparison, axes[3])
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _draw_target(comparison: Comparison, axis: Axis, panel: Any) -> None:
    """What the target cost, on its line, in each variant's colour: a dot where all runs crossed, an arrow to the right
    where it is a lower bound, to the left where an upper one."""
    panel.axhline(comparison.target, linestyle=":", color="grey", linewidth=1)
    for variant, line in zip(comparison.variants, panel.get_lines(), strict=False):
        at, marker = target_mark(variant.to_target[axis])
        panel.plot([at], [comparison.target], marker, color=line.get_color(), clip_on=False)


def target_mark(reached: Reached) -> tuple[float, str]:
    """Where it stands and matplotlib's name for its shape."""
    if reached.at_least is not None:
        return reached.at_least, ">"
    if reached.at_most is not None:
        return reached.at_most, "<"
    assert reached.spent is not None, "every run crossed between two evaluations"
    return reached.spent.mean, "o"


def mean_curve(runs: Sequence[RunCurve], axis: Axis) -> tuple[list[float], list[Interval]]:
    """The mean over runs at points that all of them have reached."""
    end = min(getattr(run.points[-1], axis) for run in runs)
    start = max(getattr(run.points[0], axis) for run in runs)
    spent = [start + (end - start) * i / _GRID for i in range(_GRID)] + [end]
    means: list[tuple[float, Interval]] = []
    for at in spent:
        values = [accuracy_at(run, axis, at) for run in runs]
        interval = t_interval([value for value in values if value is not None])
        if interval is not None:
            means.append((at, interval))
    return [at for at, _ in means], [interval for _, interval in means]


def _draw_outcomes(comparison: Comparison, panel: Any) -> None:
    names = [variant.name for variant in comparison.variants]
    bottom = [0.0] * len(names)
    for outcome in OUTCOMES:
        intervals = [variant.outcomes[outcome] for variant in comparison.variants]
        heights = [0.0 if interval is None else interval.mean for interval in intervals]
        panel.bar(names, heights, bottom=bottom, label=outcome.replace("_", " "))
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    panel.set_ylabel("share of groups kept")
    panel.tick_params(axis="x", labelrotation=30)
    panel.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
