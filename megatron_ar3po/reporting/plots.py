"""Figures as JSON for plotly.js, checked by plotly's own classes. Colours of text, grid and ground are the page's,
which knows whether it is light or dark; those of lines read on both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

MAX_POINTS = 1000
PALETTE = ("#3b82c4", "#e07b39", "#3f9e6d", "#b0569b", "#8a7a3d", "#c94f4f", "#4aa5ad", "#7d7d7d")
OUTCOME_COLOURS = {
    "all_correct": "#6baed6",
    "mixed": "#3f9e6d",
    "rescued": "#9b6bc9",
    "all_wrong": "#e07b39",
    "truncated": "#b8923a",
    "verifier_error": "#c94f4f",
    "cancelled": "#8c8c8c",
}

Trace = dict[str, Any]
Row = Mapping[str, Any]


def figure(
    traces: Sequence[Trace],
    *,
    x: str,
    y: str,
    share: bool = False,
    layout: Mapping[str, Any] | None = None,
) -> str:
    """JSON of one figure. `share`: the y axis is 0 to 100%."""
    import plotly.graph_objects as go  # not wanted by the report's other forms

    drawn = go.Figure(
        data=list(traces),
        layout={
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}} | ({"tickformat": ".0%"} if share else {}),
            **(layout or {}),
        },
    )
    drawn.update_layout(template="none")
    text = drawn.to_json(engine="json")
    assert text is not None
    return text


def line(name: str, points: tuple[Any, Any], number: int = 0, **options: Any) -> Trace:
    xs, ys = points
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": xs,
        "y": ys,
        "line": {"color": PALETTE[number % len(PALETTE)], "width": 2},
        **options,
    }


def area(name: str, points: tuple[Any, Any], colour: str, group: str = "one") -> Trace:
    """One layer of a stack."""
    xs, ys = points
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": xs,
        "y": ys,
        "stackgroup": group,
        "line": {"color": colour, "width": 0.5},
        "fillcolor": colour,
        "hovertemplate": "%{y}",
    }


def bars(name: str, xs: Iterable[Any], ys: Iterable[float], number: int = 0, **more: Any) -> Trace:
    colour = {"color": PALETTE[number % len(PALETTE)]}
    return {"type": "bar", "name": name, "x": list(xs), "y": list(ys), "marker": colour, **more}


def series(
    rows: Sequence[Row], value: str | Callable[[Row], float | None], max_points: int = MAX_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have one; where there are more than `max_points`, means of neighbours."""
    of = (lambda row: row.get(value)) if isinstance(value, str) else value
    found = [(row["step"], known) for row in rows if (known := of(row)) is not None]
    steps = np.array([step for step, _ in found], dtype=float)
    values = np.array([known for _, known in found], dtype=float)
    if len(found) <= max_points:
        return steps, values
    buckets = np.arange(len(found)) * max_points // len(found)
    counts = np.bincount(buckets)
    return np.bincount(buckets, steps) / counts, np.bincount(buckets, values) / counts


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Of each value and the `window` - 1 before it, or as many as there are.

    >>> running_mean(np.array([1.0, 3.0, 5.0]), 2).tolist()
    [1.0, 2.0, 4.0]
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def step_edges(steps: np.ndarray, max_points: int = 200) -> np.ndarray:
    """Edges of at most `max_points` bins of whole steps, for figures that count in each."""
    first, last = int(steps.min()), int(steps.max())
    width = max(1, -(-(last - first + 1) // max_points))
    return np.arange(first, last + width + 1, width)


def list_between(names: Iterable[str], prefix: str, suffix: str) -> list[str]:
    """What lies between prefix and suffix in the names, each once.

    >>> list_between(["a/2/x", "a/1/x", "b", "a/1/x"], "a/", "/x")
    ['1', '2']
    """
    found = (name for name in names if name.startswith(prefix) and name.endswith(suffix))
    middles = sorted(name.removeprefix(prefix).removesuffix(suffix) for name in found)
    return [middle for middle, _ in groupby(middles)]
