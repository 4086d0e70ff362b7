"""Estimates of what another plan would have cost, against sums over every outcome that there can be."""

import doctest
import itertools
import math

import pytest

from megatron_ar3po.algorithm import counterfactual_cost
from megatron_ar3po.algorithm.counterfactual_cost import (
    Bounds,
    estimate_all_correct,
    estimate_mixed,
    estimate_responses,
    estimate_squared_responses,
    estimate_unsolved,
    expect_rounds,
)


def test_the_worked_examples_hold():
    results = doctest.testmod(counterfactual_cost)
    assert results.attempted >= 8 and results.failed == 0


def every_outcome(sizes, rate):
    """(chance, stages) of each way in which a prompt of this pass rate goes through stages of these sizes."""
    chance_here, before = 1.0, ()
    for number, size in enumerate(sizes, start=1):
        for correct in range(size + 1):
            chance = math.comb(size, correct) * rate**correct * (1 - rate) ** (size - correct)
            if correct or number == len(sizes):
                yield chance_here * chance, (*before, (size, correct))
        chance_here *= (1 - rate) ** size
        before = (*before, (size, 0))


def average(estimate, sizes, rate) -> Bounds:
    found = [(chance, estimate(stages)) for chance, stages in every_outcome(sizes, rate)]
    return Bounds(sum(c * b.low for c, b in found), sum(c * b.high for c, b in found))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("sizes", [(8,), (4, 4), (2, 2, 2, 2)])
def test_the_chance_to_be_unsolved_is_estimated_without_bias_from_plain_and_from_stopped_draws(
    sizes, rate
):
    for num in range(9):
        low, high = average(lambda stages, num=num: estimate_unsolved(stages, num), sizes, rate)
        assert low == pytest.approx(high) == pytest.approx((1 - rate) ** num)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_the_share_that_a_prompt_had_is_no_such_estimate(rate):
    """(w / g)^m is above (1 - p)^m wherever p is neither 0 nor 1: by 0.3^2 / 2 for two of two at p = 0.3, say."""
    low, _ = average(lambda s: Bounds((1 - s[0][1] / 2) ** 2, 0.0), (2,), rate)
    bias = low - (1 - rate) ** 2
    assert bias == pytest.approx(rate * (1 - rate) / 2)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_mixed_groups_are_counted_without_bias_from_as_many_draws_and_bounded_from_fewer(rate):
    for num in (2, 4, 8):
        true = 1 - rate**num - (1 - rate) ** num
        low, high = average(lambda stages, num=num: estimate_mixed(stages, num), (8,), rate)
        assert low == pytest.approx(high) == pytest.approx(true, abs=1e-12)
        low, high = average(lambda stages, num=num: estimate_mixed(stages, num), (4, 4), rate)
        assert low - 1e-12 <= true <= high + 1e-12
        assert low == pytest.approx(high) or num == 8  # solved prompts had four
    assert estimate_all_correct(((4, 3),), 8) == (0, 0)


@pytest.mark.parametrize("plan", [(4, 4), (2, 2, 2, 2), (1, 3, 4), (8,)])
def test_what_a_plan_gives_a_prompt_and_its_square_are_estimated_without_bias(plan):
    rate = 0.3
    counts = [(chance, sum(n for n, _ in stages)) for chance, stages in every_outcome(plan, rate)]
    mean, square = (sum(c * n**power for c, n in counts) for power in (1, 2))
    for sizes in ((8,), (4, 4)):
        assert average(lambda s: estimate_responses(s, plan), sizes, rate) == pytest.approx(
            (mean, mean)
        )
        assert average(lambda s: estimate_squared_responses(s, plan), sizes, rate) == pytest.approx(
            (square, square)
        )


def test_where_outcomes_are_too_few_the_truth_lies_between_the_bounds():
    """Of a GRPO group of two nothing is known of a fifth response that is not said by the second."""
    low, high = average(lambda s: estimate_responses(s, (4, 4)), (2,), 0.3)
    assert low == pytest.approx(4) and high == pytest.approx(4 + 4 * 0.7**2)
    assert low < 4 + 4 * 0.7**4 < high


def test_rounds_are_those_of_all_ways_in_which_prompts_can_come_out():
    """Two slots, two prompts a round, three rounds at most, a prompt mixed with 0.4: all 64 ways by hand."""
    mean = square = 0.0
    for ways in itertools.product((0, 1), repeat=6):
        chance = math.prod(0.4 if mixed else 0.6 for mixed in ways)
        rounds = next((r for r in (1, 2) if sum(ways[: 2 * r]) >= 2), 3)
        mean, square = mean + chance * rounds, square + chance * rounds**2
    found = expect_rounds(0.4, slots=2, per_round=2, max_rounds=3)
    assert found == pytest.approx((mean, square - mean**2))


@pytest.mark.parametrize(("share", "rounds"), [(1.0, 1.0), (0.0, 8.0)])
def test_a_step_that_always_or_never_finds_mixed_groups_has_no_chance_in_it(share, rounds):
    assert expect_rounds(share, slots=16, per_round=16, max_rounds=8) == (rounds, 0.0)
