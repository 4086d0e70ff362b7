from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from fakes.algorithm_cases import group, make_errored, make_scored, stored_answer
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.algorithm.aggregation import Aggregation, response_units, token_weights
from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import TrainingSample

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def samples_of_lengths(*groups: Sequence[int]) -> list[TrainingSample]:
    """Response lengths, one sequence of them per prompt."""
    return [
        TrainingSample(
            group_position=position,
            prompt_id=f"p{position}",
            response_id=f"p{position}.{index}",
            prompt_token_ids=(1, 2),
            response_token_ids=np.zeros(length, dtype=np.int32),
            behaviour_logprobs=np.zeros(length, dtype=np.float32),
            advantage=1.0,
            reward=1.0,
            origin="fresh",
            policy_version=0,
        )
        for position, lengths in enumerate(groups)
        for index, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("aggregation", "expected", "num_units"),
    [
        ("token_mean", [1 / 8, 1 / 8, 1 / 8], 8),
        ("seq_mean_token_mean", [1 / 3, 1 / 9, 1 / 12], 3),
        ("seq_mean_token_sum", [1 / 3, 1 / 3, 1 / 3], 3),
        ("prompt_mean", [1 / 8, 1 / 8, 1 / 8], 2),
    ],
)
def test_two_prompts_with_responses_of_1_3_and_4_tokens(
    aggregation: Aggregation, expected: list[float], num_units: float
) -> None:
    """8 tokens, 3 sequences, 2 prompts of 4 tokens each."""
    weights, units = token_weights(samples_of_lengths([1, 3], [4]), aggregation)
    assert weights.tolist() == pytest.approx(expected)
    assert units == num_units


def test_prompt_mean_gives_a_prompt_with_few_tokens_the_same_say() -> None:
    """Prompts of 2 and 6 tokens: each token of the first weighs 1/4, of the second 1/12."""
    weights, _ = token_weights(samples_of_lengths([1, 1], [6]), "prompt_mean")
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 12])


LENGTHS = st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=4), min_size=1, max_size=5)


@given(LENGTHS)
def test_the_weights_of_all_tokens_sum_to_one(groups: list[list[int]]) -> None:
    samples = samples_of_lengths(*groups)
    lengths = np.array([s.num_response_tokens for s in samples])
    for aggregation in AGGREGATIONS:
        weights, _ = token_weights(samples, aggregation)
        expected = lengths.mean() if aggregation == "seq_mean_token_sum" else 1.0
        assert (weights * lengths).sum() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_detached_response_is_in_no_denominator(aggregation: Aggregation) -> None:
    """A rescued group of four: three sequences of 3 tokens stay, whatever the length of the borrowed one."""
    groups = [with_borrowed(group([0] * 4), stored_answer(num_tokens=50), seed=0, step=5)]
    samples = samples_with_signal(groups, AlgorithmConfig(), ReuseConfig(option="detach"))
    _, units = token_weights(samples, aggregation)
    expected = {"token_mean": 9, "prompt_mean": 1}
    assert units == expected.get(aggregation, 3)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nothing_to_train_on_has_no_units(aggregation: Aggregation) -> None:
    weights, units = token_weights([], aggregation)
    assert (len(weights), units) == (0, 0.0)


@pytest.mark.parametrize(
    ("aggregation", "expected", "num_units"),
    [
        ("token_mean", [1 / 20, 1 / 20, 1 / 20], 20),
        ("seq_mean_token_mean", [1 / 6, 1 / 18, 1 / 24], 6),
        ("seq_mean_token_sum", [1 / 6, 1 / 6, 1 / 6], 6),
        ("prompt_mean", [1 / 12, 1 / 12, 1 / 18], 3),
    ],
)
def test_over_all_responses_of_the_step_those_without_advantage_count(
    aggregation: Aggregation, expected: list[float], num_units: float
) -> None:
    """As above, one more response of 2 tokens of the second prompt and two of 5 of a third: 20 tokens, 6 sequences, 3
    prompts. In each of two mini-batches: half as many."""
    samples, units = samples_of_lengths([1, 3], [4]), {0: [1, 3], 1: [4, 2], 2: [5, 5]}
    weights, found = token_weights(samples, aggregation, units=units)
    assert weights.tolist() == pytest.approx(expected)
    assert found == pytest.approx(num_units)
    halves, found = token_weights(samples, aggregation, units=units, num_parts=2)
    assert halves.tolist() == pytest.approx([2 * weight for weight in expected])
    assert found == pytest.approx(num_units / 2)


def test_failed_cancelled_and_borrowed_responses_are_no_units() -> None:
    """Of the first group two graded responses count, the one that a borrowed one has replaced too; of one that failed
    as a whole, nothing."""
    cut_off = make_scored(0.0, name="c", num_tokens=9, finish_reason="abort")
    first = with_borrowed(
        group([0, 0], lengths=[2, 2]), stored_answer(num_tokens=7), seed=0, step=5
    )
    first = replace(
        first, responses=(*first.responses, cut_off), left_out=(*first.left_out, make_errored())
    )
    failed = replace(group([], position=1), left_out=(make_errored(),))
    assert response_units([first, failed]) == {0: [2, 2]}


def test_a_borrowed_response_of_a_group_without_units_weighs_by_its_own_tokens() -> None:
    weights, _ = token_weights(samples_of_lengths([4]), "prompt_mean", units={1: [2]})
    assert weights.tolist() == [1 / 4]
    weights, _ = token_weights(samples_of_lengths([4]), "token_mean", units={})
    assert weights.tolist() == [1 / 4]
