"""Intervals by resampling: what a mean would have been with other prompts and other seeds of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

_ROUNDS = 2000
_AT_ONCE = 2_000_000  # numbers in memory
_TAIL = 0.025


class Resampled(NamedTuple):
    """The mean, and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def resample_mean(
    values: Sequence[Array], *, seed: int = 0, rounds: int = _ROUNDS
) -> Resampled | None:
    """Of several runs, each with a value for every prompt: runs are drawn with replacement, then prompts of each. The
    mean is that of the runs' own means; the interval that of the middle 95% of the draws. None without values.

    One run whose four prompts have 0 0 1 1: the mean of four draws is binomial, and 0 and 1 come with 1/16 each, so
    that the middle 95% are all there is: 0 to 1.
    """
    present = [each for each in values if len(each)]
    if not present:
        return None
    draw = np.random.default_rng(seed)
    means = np.array([each.mean() for each in present])
    drawn = np.zeros(rounds)
    chosen = draw.integers(len(present), size=(rounds, len(present)))
    for number, each in enumerate(present):
        times = (chosen == number).sum(axis=1)
        for turn in range(int(times.max())):
            wanted = np.flatnonzero(times > turn)
            drawn[wanted] += _means(each, len(wanted), draw)
    low, high = np.quantile(drawn / len(present), [_TAIL, 1 - _TAIL])
    return Resampled(float(means.mean()), float(low), float(high))


def _means(values: Array, count: int, draw: np.random.Generator) -> Array:
    """Of `count` draws of as many values as there are."""
    at_once = max(1, _AT_ONCE // len(values))
    parts = [
        values[draw.integers(len(values), size=(min(at_once, count - begin), len(values)))].mean(
            axis=1
        )
        for begin in range(0, count, at_once)
    ]
    return np.concatenate(parts)
