"""DAPO (arXiv:2503.14476), its parts together: what the preset sets, and a step with all of them on.

Not here: the rounds of dynamic sampling (tests/unit/rollout/test_step_sampler.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.algorithm_cases import group

from megatron_ar3po.algorithm.advantages import carries_signal, is_mixed
from megatron_ar3po.algorithm.aggregation import token_weights
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.rewards.verifier import overlong_penalty
from megatron_ar3po.types import ResponseGroup, Verdict

LIMIT, INTERVAL = 20, 4


def make_graded(*responses: tuple[bool, int], position: int = 0) -> ResponseGroup:
    """(is correct, tokens) of each response; at the limit it is cut off, and wrong."""
    whole = group([0] * len(responses), position=position, lengths=[n for _, n in responses])
    scored = []
    for one, (is_correct, length) in zip(whole.responses, responses, strict=True):
        is_cut = length == LIMIT
        penalty = overlong_penalty(length, max_tokens=LIMIT, interval=INTERVAL)
        verdict = Verdict(
            reward=float(is_correct) + penalty,
            status="truncated" if is_cut else "correct" if is_correct else "incorrect",
        )
        response = replace(one.response, finish_reason="length" if is_cut else "stop")
        scored.append(replace(one, response=response, verdict=verdict))
    return replace(whole, responses=tuple(scored))


# Rewards 1, 1 - 1/2, 0, -1: mean 0.125, std sqrt(2.1875 / 4) = 0.739510.
MIXED = make_graded((True, 10), (True, 18), (False, 12), (False, 20))


def test_the_preset_is_the_paper_but_for_what_depends_on_the_length_limit() -> None:
    config = load_config([], ["algorithm.name=dapo"])
    algorithm = config.algorithm
    assert (algorithm.clip_ratio_low, algorithm.clip_ratio_high) == (0.2, 0.28)
    assert (algorithm.loss_aggregation, algorithm.kl_coef) == ("token_mean", 0.0)
    assert (algorithm.dynamic_sampling, algorithm.dynamic_sampling_by) == (True, "correctness")
    assert (config.rollout.stage_sizes, config.reuse.enabled) == ((8,), False)
    assert (config.rewards.overlong_penalty_tokens, algorithm.overlong_filtering) == (0, False)


def test_the_punishment_falls_in_a_line_over_the_last_tokens() -> None:
    assert MIXED.rewards.tolist() == [1.0, 0.5, 0.0, -1.0]


def test_punished_rewards_are_normalised_and_the_filtered_response_leaves_afterwards() -> None:
    """0.875, 0.375 and -0.125 over 0.739510; 10 + 18 + 12 tokens share the loss."""
    config = AlgorithmConfig(overlong_filtering=True)
    samples = samples_with_signal([MIXED], config, ReuseConfig(enabled=False))
    assert [s.advantage for s in samples] == pytest.approx(
        [1.183216, 0.507093, -0.169031], abs=1e-5
    )
    weights, num_tokens = token_weights(samples, "token_mean")
    assert (weights.tolist(), num_tokens) == ([1 / 40] * 3, 40)


def test_a_group_that_differs_by_its_punishment_alone_is_drawn_anew() -> None:
    """All correct, one long; all wrong, one cut. Without dynamic sampling they would train."""
    for same in (make_graded((True, 10), (True, 19)), make_graded((False, 10), (False, 20))):
        assert carries_signal(same) and not is_mixed(same)
    assert is_mixed(MIXED)
