"""A comparison of runs as a page: the report's page (`reporting/page.py`) with other sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_ar3po.comparison.aligned import AlignedComparison, common_points, value_at
from megatron_ar3po.comparison.compared_runs import RunGroup
from megatron_ar3po.comparison.comparison_text import notes_of, rows_of
from megatron_ar3po.comparison.statistics import t_interval
from megatron_ar3po.reporting.page import Page, Section, table
from megatron_ar3po.reporting.plots import PALETTE, figure, line

_GRID = 60


def page_of_comparison(groups: Sequence[RunGroup], comparison: AlignedComparison) -> Page:
    axis = comparison.axis
    names = [group.name for group in groups]
    sections = [
        Section(
            key="table",
            title=f"At equal {axis}",
            look_for=" ".join(notes_of(comparison)),
            markup=table([(name, *cells) for name, cells in rows_of(comparison)], ["", *names]),
        ),
        *(
            _curve_section(groups, axis, *about)
            for about in (
                ("accuracy", "Held-out accuracy", "eval/pass_at_1", "pass@1", _LOOK_ACCURACY),
                ("reward", "Reward in training", "reward/mean", "mean reward", _LOOK_REWARD),
                ("responses", "Responses per prompt", "rollout/responses_per_prompt",
                 "responses per prompt", _LOOK_RESPONSES),
                ("no-signal", "Groups without signal", "group/no_signal_frac", "share of groups",
                 _LOOK_SIGNAL),
                ("entropy", "Entropy", "actor/entropy", "nats a token", _LOOK_ENTROPY),
            )
        ),
    ]  # fmt: skip
    runs = [run.name for group in groups for run in group.runs]
    return Page(
        title=" against ".join(names),
        subtitle=f"{len(runs)} runs: {', '.join(runs)}",
        notes=list(comparison.warnings),
        sections=[section for section in sections if section is not None],
    )


_LOOK_ACCURACY = (
    "Which curve lies above at equal cost, and whether the bands part (95% over seeds, where a variant "
    "has several)."
)
_LOOK_REWARD = (
    "Means over equal parts of the way. Rewards on training prompts that held-out accuracy does not "
    "follow are memory."
)
_LOOK_RESPONSES = (
    "What a prompt costs. An adaptive variant falls as the policy learns; a fixed one stays."
)
_LOOK_SIGNAL = (
    "Groups whose responses are all alike teach nothing: their share is what a variant wastes."
)
_LOOK_ENTROPY = "A fall towards 0 is a policy that has stopped to try; a variant that falls faster explores less."


def _curve_section(
    groups: Sequence[RunGroup], axis: str, key: str, title: str, metric: str, unit: str, look: str
) -> Section | None:
    ends = common_points(groups, axis, _GRID)
    traces: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        if metric == "eval/pass_at_1":
            points = np.concatenate([[0.0], ends])
            per_run = [[value_at(run, metric, axis, at) for at in points] for run in group.runs]
        else:
            points = ends
            per_run = [_means_of_parts(run, metric, axis, ends) for run in group.runs]
        traces += _band(group.name, points, per_run, number)
    if not traces:
        return None
    return Section(key=key, title=title, look_for=look, figures=(figure(traces, x=axis, y=unit),))


def _means_of_parts(run: Any, metric: str, axis: str, ends: np.ndarray) -> list[float | None]:
    """Of the rows that end in each of the parts."""
    position = run.positions[axis]
    part = np.searchsorted(ends, position)
    found: list[list[float]] = [[] for _ in ends]
    for row, index in zip(run.rows, part, strict=True):
        value = row.get(metric)
        if value is not None and index < len(ends):
            found[index].append(value)
    return [float(np.mean(values)) if values else None for values in found]


def _band(
    name: str, points: np.ndarray, per_run: Sequence[Sequence[float | None]], number: int
) -> list[dict[str, Any]]:
    """The mean over runs, and its 95% interval where there are several."""
    xs, means, lows, highs = [], [], [], []
    for at, values in zip(points, zip(*per_run, strict=True), strict=True):
        if any(value is None for value in values):
            continue
        interval = t_interval(values)
        assert interval is not None, "a variant has at least one run"
        xs.append(float(at))
        means.append(interval.mean)
        lows.append(interval.low)
        highs.append(interval.high)
    if not xs:
        return []
    drawn = line(name, (xs, means), number)
    if len(per_run) < 2:
        return [drawn]
    colour = PALETTE[number % len(PALETTE)]
    fill = {
        "type": "scatter", "mode": "lines", "x": [*xs, *reversed(xs)], "y": [*highs, *reversed(lows)],
        "fill": "toself", "fillcolor": colour, "opacity": 0.15, "line": {"width": 0},
        "hoverinfo": "skip", "showlegend": False, "name": name,
    }  # fmt: skip
    return [fill, drawn]
