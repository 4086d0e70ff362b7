"""Records reduce themselves; the numbers are worked out by hand."""

import doctest
import math

import pytest

from megatron_ar3po import records
from megatron_ar3po.records import Max, Mean, Records, StandardError, Sum, merge_records


def test_means_carry_their_weight():
    """Two of 3 and one of 6: (2*3 + 6) / 3 = 4."""
    assert Mean(3, 2).merge(Mean(6, 1)) == Mean(4, 3)


def test_a_mean_without_weight_changes_nothing():
    assert Mean(3, 2).merge(Mean(9, 0)) == Mean(3, 2)


def test_two_means_without_weight_stay_without():
    assert Mean(3, 0).merge(Mean(9, 0)) == Mean(3, 0)


def test_records_of_several_parts_are_merged_by_name():
    merged = merge_records(
        {"loss": Mean(1, 3), "prompts": Sum(2)}, {"loss": Mean(5, 1), "longest": Max(7)}, {}
    )
    assert merged == {"loss": Mean(2, 4), "prompts": Sum(2), "longest": Max(7)}


def test_what_is_merged_stays_as_it_was():
    first = Records({"prompts": Sum(2)})
    merge_records(first, {"prompts": Sum(3)})
    assert first == {"prompts": Sum(2)}


def test_one_name_is_one_kind_of_record():
    with pytest.raises(TypeError, match=r"metric a was recorded as Sum and as Max"):
        Records({"a": Sum(1)}).add("a", Max(1))


def test_the_examples_in_the_docstrings_are_true():
    results = doctest.testmod(records)
    assert (results.attempted, results.failed) == (6, 0)


def test_a_standard_error_of_two_replicas_is_that_of_all_their_values():
    """0, 1 and 1, 1, 1: the mean is 4/5, the squares add up to 0.64 + 4 * 0.04 = 0.8, so it is sqrt(0.8 / 4 / 5)."""
    merged = StandardError.of([0, 1]).merge(StandardError.of([1, 1, 1]))
    assert merged.count == 5
    assert merged.value == pytest.approx(0.2)
    assert merged.squares == pytest.approx(StandardError.of([0, 1, 1, 1, 1]).squares)


def test_one_value_has_no_standard_error():
    assert math.isnan(StandardError.of([1]).value)
    assert math.isnan(StandardError.of([]).merge(StandardError.of([])).value)
