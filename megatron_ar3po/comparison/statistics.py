"""Means over seeds and how sure they are: Student's t, paired where it is a difference."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Interval:
    """mean +- half_width, two-sided; `half_width` is None with one value, which says nothing of its spread."""

    mean: float
    half_width: float | None
    count: int

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """mean +- t(n - 1) s / sqrt(n), s the sample std; None without values.

    1 2 3: mean 2, s = 1, t = 4.302653 with two degrees of freedom, half width 4.302653 / sqrt(3) = 2.484138.
    """
    if not values:
        return None
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Interval(mean, t_quantile(confidence, n - 1) * std / math.sqrt(n), n)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A geometric mean and the ends of its interval, which is symmetric in the logarithm; no ends with one value."""

    mean: float
    low: float | None
    high: float | None


def paired_ratio(one: Sequence[float], other: Sequence[float]) -> Ratio | None:
    """one / other, seed by seed.

    2 8 against 1 2: ratios 2 and 4, geometric mean sqrt(8) = 2.828427. The logarithms have s = ln(2) / sqrt(2), and
    with t = 12.7062 the half width is 12.7062 ln(2) / 2: the interval is 2.828427 / 2^6.3531 to 2.828427 * 2^6.3531.
    """
    interval = t_interval([math.log(a / b) for a, b in zip(one, other, strict=True)])
    if interval is None:
        return None
    ends = [None if end is None else math.exp(end) for end in (interval.low, interval.high)]
    return Ratio(math.exp(interval.mean), *ends)


Side = Literal["equal", "at_least", "at_most"]


@dataclass(frozen=True, slots=True)
class BoundedRatio:
    """A ratio of costs, some of which are known from one side only: `side` says what `ratio` is to the true one."""

    side: Side
    ratio: Ratio


def bounded_ratio(
    one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> BoundedRatio | None:
    """one / other, seed by seed, each of them known to lie from low to high (infinite: it has no upper end). None where
    neither side of the ratio is known in every seed.

    400 and at least 800 against 100 and 300: ratios 4 and at least 8/3, so at least sqrt(4 * 8/3) = 3.265986.
    300 against at least 400: at most 0.75. At least 800 against at least 400: nothing is known.
    """
    bounds = [
        (_divide(low, most, if_nothing=0.0), _divide(high, least, if_nothing=math.inf))
        for (low, high), (least, most) in zip(one, other, strict=True)
    ]
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    if all(low > 0 and math.isfinite(low) for low in lows):
        side: Side = "equal" if lows == highs else "at_least"
        ratio = paired_ratio(lows, [1.0] * len(lows))
    elif all(math.isfinite(high) for high in highs):
        side = "at_most"
        ratio = paired_ratio(highs, [1.0] * len(highs)) if all(highs) else Ratio(0.0, None, None)
    else:
        return None
    return None if ratio is None else BoundedRatio(side, ratio)


def _divide(part: float, whole: float, *, if_nothing: float) -> float:
    """`if_nothing`: what 0 / 0 is."""
    if whole:
        return part / whole
    return math.inf if part else if_nothing


@functools.lru_cache
def t_quantile(confidence: float, freedom: int) -> float:
    """t with P(|T| <= t) = confidence: 12.7062 for 0.95 and one degree of freedom, 4.302653 for two, 2.776445 for four.
    By bisection."""
    if not 0 < confidence < 1 or freedom < 1:
        raise ValueError(
            f"confidence={confidence} must lie in (0, 1), degrees of freedom ({freedom}) be at least 1."
        )
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t): the finite series of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = freedom % 2 == 1
    term = cosine if is_odd else 1.0
    total = 0.0
    for power in range(1 if is_odd else 0, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    if is_odd:
        return (angle + sine * total) * 2 / math.pi
    return sine * total


def paired_difference(
    one: Sequence[float], other: Sequence[float], confidence: float = 0.95
) -> Interval | None:
    """The interval of one - other, seed by seed: what both owe to the seed cancels.

    0.5 0.7 0.9 against 0.4 0.6 0.8 is 0.1 +- 0, however far the seeds lie apart.
    """
    return t_interval([a - b for a, b in zip(one, other, strict=True)], confidence)
