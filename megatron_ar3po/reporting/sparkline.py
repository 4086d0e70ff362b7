"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=*#"


def sparkline(values: Sequence[float], *, width: int = 30, marks: str = BLOCKS) -> str:
    """At most `width` marks, each the mean of as many neighbours; what is no number is a gap. A curve that does not
    move stays on the ground.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7])
    '▁▂▃▄▅▆▇█'
    >>> sparkline([1, 3, 5, 7], width=2), sparkline([2, 2, 2]), sparkline([])
    ('▁█', '▁▁▁', '')
    """
    means = [_mean(part) for part in _split(values, width)]
    known = [mean for mean in means if not math.isnan(mean)]
    if not known:
        return " " * len(means)
    low, high = min(known), max(known)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if math.isnan(mean) else marks[round((mean - low) * scale)] for mean in means
    )


def _split(values: Sequence[float], width: int) -> list[Sequence[float]]:
    parts = min(width, len(values))
    cuts = [round(i * len(values) / parts) for i in range(parts + 1)] if parts else [0]
    return [values[a:b] for a, b in pairwise(cuts)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
