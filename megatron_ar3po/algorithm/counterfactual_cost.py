"""What another plan of sampling would have cost, from outcomes that were seen: the estimators, as plain functions.

The responses of a prompt in one step are independent draws, each correct with the same unknown chance p. What a plan
costs is made of two chances:

    (1 - p)^m   none of m responses is correct: an adaptive prompt goes on after m responses
    p^n         all of n are: with (1 - p)^n, the groups that dynamic sampling throws away

With g outcomes of which w are wrong, the unbiased estimate of (1 - p)^m is the share of all choices of m among the g
that hold wrong ones only, C(w, m) / C(g, m): the m are drawn without replacement. (w / g)^m is biased: one wrong
response of two would say 1/4 for m = 2, and the two that there are hold a correct one for certain. No function of g
outcomes is unbiased for m > g; then there are bounds.

`Stages`: the (graded, correct) of each stage of a prompt, in order. All stages but the last hold wrong responses alone,
for a prompt stops at its first correct one: the outcomes of all stages together are no independent draws, so that a
chance is the product over the stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Stages = tuple[tuple[int, int], ...]


class Bounds(NamedTuple):
    """Equal where the outcomes suffice for an unbiased estimate."""

    low: float
    high: float


def share_of_choices(of: int, among: int, size: int) -> float:
    """C(of, size) / C(among, size): of all choices of `size` among `among`, those that lie within `of` of them.

    >>> share_of_choices(5, 8, 4)  # 5 / 70
    0.07142857142857142
    """
    return math.comb(of, size) / math.comb(among, size)


def estimate_unsolved(stages: Stages, num_responses: int) -> Bounds:
    """The chance that the first `num_responses` responses of a prompt are wrong.

    5 of 8 wrong: 5/70 for four. 4 wrong, then 3 of 4 wrong: 1 x C(3, 2) / C(4, 2) = 1/2 for six. 3 of 4 wrong: 0 for
    six. All of 4 wrong: between 0 and 1 for six.

    >>> estimate_unsolved(((4, 0), (4, 1)), 6)
    Bounds(low=0.5, high=0.5)
    """
    chance, left = 1.0, num_responses
    for graded, correct in stages:
        size = min(left, graded)
        chance *= share_of_choices(graded - correct, graded, size)
        left -= size
        if not left or not chance:
            return Bounds(chance, chance)
    return Bounds(chance, chance) if not left else Bounds(0.0, chance)


def estimate_all_correct(stages: Stages, num_responses: int) -> Bounds:
    """The chance that `num_responses` responses are correct. A solved prompt got no second stage, so that only the
    first one tells; p^n is at most p^g for g < n.

    >>> estimate_all_correct(((8, 5),), 4), estimate_all_correct(((4, 4),), 8)
    (Bounds(low=0.07142857142857142, high=0.07142857142857142), Bounds(low=0.0, high=1.0))
    """
    graded, correct = stages[0]
    size = min(num_responses, graded)
    chance = share_of_choices(correct, graded, size)
    return Bounds(chance if size == num_responses else 0.0, chance)


def estimate_mixed(stages: Stages, num_responses: int) -> Bounds:
    """The chance that a group of `num_responses` holds a correct and a wrong response: DAPO keeps it.

    >>> estimate_mixed(((8, 5),), 8), estimate_mixed(((4, 4),), 8)
    (Bounds(low=1.0, high=1.0), Bounds(low=0.0, high=1.0))
    """
    none = estimate_unsolved(stages, num_responses)
    every = estimate_all_correct(stages, num_responses)
    return Bounds(max(0.0, 1 - every.high - none.high), 1 - every.low - none.low)


def estimate_responses(stages: Stages, sizes: Sequence[int]) -> Bounds:
    """How many responses a plan of stages of `sizes` gives the prompt: sum_s sizes[s] (1 - p)^(responses before s).

    5 of 8 wrong, two stages of 4: 4 + 4 x 5/70 = 4.2857.

    >>> estimate_responses(((8, 3),), [4, 4])
    Bounds(low=4.285714285714286, high=4.285714285714286)
    """
    low = high = 0.0
    before = 0
    for size in sizes:
        chance = estimate_unsolved(stages, before)
        low, high, before = low + size * chance.low, high + size * chance.high, before + size
    return Bounds(low, high)


def estimate_squared_responses(stages: Stages, sizes: Sequence[int]) -> Bounds:
    """The expected square of the same number: who enters stage s has entered all before it.

    5 of 8 wrong, two stages of 4: 16 + (64 - 16) x 5/70 = 19.4286.

    >>> estimate_squared_responses(((8, 3),), [4, 4]).low
    19.428571428571427
    """
    low = high = 0.0
    before = 0
    for size in sizes:
        chance = estimate_unsolved(stages, before)
        more = (before + size) ** 2 - before**2
        low, high, before = low + more * chance.low, high + more * chance.high, before + size
    return Bounds(low, high)


def expect_rounds(
    mixed_frac: float, *, slots: int, per_round: int, max_rounds: int
) -> tuple[float, float]:
    """Mean and variance of the rounds in which a step of dynamic sampling finds `slots` mixed groups, each prompt of a
    round being one with the same chance: it goes on after r rounds when r * per_round prompts held fewer.

    One slot, one prompt a round, chance 1/2, at most three rounds: the second comes with 1/2, the third with 1/4, so
    the mean is 1.75; the expected square is 1 + 3/2 + 5/4 = 3.75, the variance 3.75 - 1.75^2 = 0.6875.

    >>> expect_rounds(0.5, slots=1, per_round=1, max_rounds=3)
    (1.75, 0.6875)
    """
    mean = square = 0.0
    for done in range(max_rounds):
        goes_on = chance_of_fewer(slots, done * per_round, mixed_frac)
        mean += goes_on
        square += (2 * done + 1) * goes_on
    return round(mean, 12), round(max(0.0, square - mean**2), 12)


def chance_of_fewer(count: int, trials: int, chance: float) -> float:
    """P(X < count) of a binomial X.

    >>> chance_of_fewer(2, 3, 0.5)  # (1 + 3) / 8
    0.5
    """
    if trials < count or not chance:
        return 1.0
    if chance == 1:
        return 0.0
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(chance)
        + (trials - k) * math.log1p(-chance)
        for k in range(count)
    ]
    return round(min(1.0, math.fsum(map(math.exp, logs))), 12)
