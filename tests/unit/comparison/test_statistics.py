from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_ar3po.comparison.statistics import (
    paired_difference,
    paired_ratio,
    t_interval,
    t_quantile,
)


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"),
    [
        (0.95, 1, 12.706205),
        (0.95, 2, 4.302653),
        (0.95, 3, 3.182446),
        (0.95, 4, 2.776445),
        (0.95, 7, 2.364624),
        (0.99, 4, 4.604095),
        (0.95, 30, 2.042272),
    ],
)
def test_the_quantiles_are_those_of_the_printed_tables(confidence, freedom, expected) -> None:
    assert t_quantile(confidence, freedom) == pytest.approx(expected, abs=1e-6)


def test_three_values_of_unit_spread() -> None:
    """1 2 3: mean 2, sample std 1, 4.302653 / sqrt(3) = 2.484138."""
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval is not None and interval.half_width is not None
    assert (interval.mean, interval.count) == (2.0, 3)
    assert interval.half_width == pytest.approx(2.484138, abs=1e-6)
    assert interval.low == pytest.approx(-0.484138, abs=1e-6)
    assert interval.high == pytest.approx(4.484138, abs=1e-6)


def test_one_value_says_nothing_of_its_spread_and_none_nothing_at_all() -> None:
    interval = t_interval([0.7])
    assert interval is not None
    assert (interval.mean, interval.half_width, interval.low) == (0.7, None, None)
    assert t_interval([]) is None


def test_a_paired_difference_is_free_of_what_both_owe_to_the_seed() -> None:
    """Differences 0.1 0.1 0.1: no spread, though the seeds lie 0.4 apart. Unpaired, the spread would be 0.2."""
    interval = paired_difference([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    assert interval is not None
    assert interval.mean == pytest.approx(0.1)
    assert interval.half_width == pytest.approx(0.0, abs=1e-12)


def test_pairs_must_be_whole() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([0.5, 0.6], [0.4])


def test_a_ratio_is_a_geometric_mean_with_an_interval_in_the_logarithm() -> None:
    """Ratios 2 and 4: sqrt(8); half width of the logarithms 12.706205 * (ln 2 / sqrt 2) / sqrt 2 = 6.353102 ln 2."""
    ratio = paired_ratio([2.0, 8.0], [1.0, 2.0])
    assert ratio is not None and ratio.low is not None and ratio.high is not None
    assert ratio.mean == pytest.approx(math.sqrt(8))
    assert math.log2(ratio.high / ratio.mean) == pytest.approx(6.353102, abs=1e-5)
    assert ratio.mean / ratio.low == pytest.approx(ratio.high / ratio.mean)


def test_one_ratio_says_nothing_of_its_spread() -> None:
    ratio = paired_ratio([3.0], [2.0])
    assert ratio is not None
    assert (ratio.mean, ratio.low, ratio.high) == (pytest.approx(1.5), None, None)


DRAWS, PROMPTS, SAMPLES = 1000, 50, 4


def draw_evaluations(rng: np.random.Generator, rates: np.ndarray) -> np.ndarray:
    """[draws, prompts]: the share of right samples of each prompt."""
    return rng.binomial(SAMPLES, rates) / SAMPLES


def test_the_interval_of_an_accuracy_covers_the_true_one_in_93_to_97_of_100():
    """Of benchmarks whose prompts are as hard as a beta distribution says: means over prompts, 4 samples of each, as
    samples of one prompt are alike. Over all 200 samples as if they were independent it would cover far less."""
    rng = np.random.default_rng(0)
    seen = draw_evaluations(rng, rng.beta(0.5, 1.0, (DRAWS, PROMPTS)))
    intervals = [t_interval(row) for row in seen.tolist()]
    covered = np.mean([abs(found.mean - 1 / 3) <= found.half_width for found in intervals])
    assert 0.93 <= covered <= 0.97
    of_samples = 1.96 * np.sqrt(1 / 3 * 2 / 3 / (PROMPTS * SAMPLES))
    assert np.mean(np.abs(seen.mean(axis=1) - 1 / 3) <= of_samples) < 0.85


def test_the_interval_of_a_paired_difference_covers_it_and_is_narrower_than_an_unpaired_one():
    """The second policy solves each prompt 0.1 more often than the first, at rates between 0 and 0.9."""
    rng = np.random.default_rng(1)
    rates = 0.9 * rng.beta(0.5, 1.0, (DRAWS, PROMPTS))
    one, other = draw_evaluations(rng, rates + 0.1), draw_evaluations(rng, rates)
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    found = [paired_difference(a, b) for a, b in pairs]
    covered = np.mean([abs(interval.mean - 0.1) <= interval.half_width for interval in found])
    assert 0.93 <= covered <= 0.97
    apart = [math.hypot(t_interval(a).half_width, t_interval(b).half_width) for a, b in pairs]
    assert np.mean([i.half_width for i in found]) < 0.75 * np.mean(apart)
