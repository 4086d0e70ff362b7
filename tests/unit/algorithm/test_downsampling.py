from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from fakes.algorithm_cases import group, stored_answer
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.algorithm.advantages import carries_signal
from megatron_ar3po.algorithm.downsampling import downsample, max_variance_subset
from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import ResponseGroup


def names(whole: ResponseGroup) -> list[str]:
    return [scored.response.response_id for scored in whole.responses]


def keep(rewards: list[float], size: int) -> list[str]:
    return names(downsample(group(rewards), AlgorithmConfig(downsample_to=size)))


def test_the_responses_whose_rewards_differ_most_are_kept_in_their_order() -> None:
    """The example of the module: 0 0.2 1 1 has variance 0.2075, 0 1 1 1 only 0.1875."""
    rewards = [0, 1, 1, 1, 1, 1, 0.2, 1]
    assert np.var([0, 0.2, 1, 1]) == pytest.approx(0.2075)
    assert np.var([0, 1, 1, 1]) == pytest.approx(0.1875)
    assert keep(rewards, 4) == ["p0.0", "p0.1", "p0.2", "p0.6"]


def test_one_correct_response_stays_among_the_first_incorrect_ones() -> None:
    assert keep([0, 0, 0, 0, 0, 1, 0, 0], 4) == ["p0.0", "p0.1", "p0.2", "p0.5"]
    assert keep([1, 1, 1, 1, 0, 0, 0, 0], 4) == ["p0.0", "p0.1", "p0.4", "p0.5"]


def test_a_group_that_is_small_enough_stays_whole() -> None:
    for size, rewards in ((0, [0, 1, 0]), (3, [0, 1, 0]), (4, [0, 1, 0])):
        whole = group(rewards)
        assert downsample(whole, AlgorithmConfig(downsample_to=size)) is whole


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, -1.0]), min_size=2, max_size=9),
    st.integers(2, 8),
)
def test_no_other_subset_of_that_size_has_a_larger_variance(
    rewards: list[float], size: int
) -> None:
    """Against all subsets."""
    if len(rewards) <= size:
        return
    indices = max_variance_subset(np.array(rewards), size)
    assert len(set(indices)) == size
    best = max(np.var(subset) for subset in combinations(rewards, size))
    assert np.var([rewards[i] for i in indices]) == pytest.approx(best)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=9), st.integers(2, 8))
def test_a_group_with_signal_keeps_it(rewards: list[float], size: int) -> None:
    whole = group(rewards)
    smaller = downsample(whole, AlgorithmConfig(downsample_to=size))
    assert carries_signal(smaller) == carries_signal(whole)


def test_random_keeps_every_response_equally_often() -> None:
    """4,000 groups of four, two kept: 2,000 each, standard deviation sqrt(4000 / 4) = 32; 5 of them are 158."""
    config = AlgorithmConfig(downsample_to=2, downsample_rule="random")
    indices = Counter(
        name.split(".")[1]
        for position in range(4000)
        for name in names(downsample(group([1, 0, 0, 0], position=position), config))
    )
    assert sum(indices.values()) == 8000
    assert all(abs(indices[str(i)] - 2000) < 158 for i in range(4)), indices


def test_random_depends_on_the_seed_of_the_response_and_on_nothing_else() -> None:
    def make_seeded(seed: int, position: int) -> ResponseGroup:
        whole = group([1, 0, 0, 0], position=position)
        responses = [
            replace(s, response=replace(s.response, seed=seed + i))
            for i, s in enumerate(whole.responses)
        ]
        return replace(whole, responses=tuple(responses))

    config = AlgorithmConfig(downsample_to=2, downsample_rule="random")
    chosen = [[names(downsample(make_seeded(s, p), config)) for p in range(40)] for s in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_advantages_are_those_of_the_responses_that_stay() -> None:
    """One correct of eight, four kept: 1 0 0 0 gives 1.732047 and -0.577349, and not 2.645744 and -0.377963."""
    config = AlgorithmConfig(downsample_to=4)
    samples = samples_with_signal([group([0] * 7 + [1])], config, ReuseConfig())
    assert [s.response_id for s in samples] == ["p0.0", "p0.1", "p0.2", "p0.7"]
    assert [s.advantage for s in samples] == pytest.approx([-0.577349] * 3 + [1.732047], abs=1e-6)


def test_a_borrowed_response_is_kept_for_it_alone_is_correct() -> None:
    """Option II leaves the three wrong ones of the four that were kept."""
    rescued = with_borrowed(group([0] * 8), stored_answer(), seed=0, step=5)
    config = AlgorithmConfig(downsample_to=4)
    assert downsample(rescued, config).num_borrowed == 1
    samples = samples_with_signal([rescued], config, ReuseConfig(option="detach"))
    assert [s.advantage for s in samples] == pytest.approx([-0.577349] * 3, abs=1e-6)


def test_one_response_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.downsample_to=1 is out of range"):
        AlgorithmConfig(downsample_to=1)
