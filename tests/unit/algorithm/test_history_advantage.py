"""Advantages from a prompt's own history, with the numbers of the module's worked example."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.algorithm_cases import group, make_scored, stored_answer

from megatron_ar3po.algorithm.advantages import advantages_of
from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.prompt_record import PromptRecord
from megatron_ar3po.types import ResponseGroup

HISTORY = AlgorithmConfig(advantage="history")
PLAIN = AlgorithmConfig(advantage="history", history_std="none")
SEEN = PromptRecord(correct=1.0, wrong=2.0, last_step=4)


def make_visited(
    rewards: list[float], record: PromptRecord = SEEN, position: int = 0
) -> ResponseGroup:
    return replace(group(rewards, position=position), record=record)


def test_one_response_is_measured_against_its_prompts_earlier_visits() -> None:
    """One correct, two wrong, half a response at 0.5: m = 1.25 / 3.5."""
    right, wrong = advantages_of([make_visited([1]), make_visited([0])], HISTORY)
    assert right == pytest.approx([1.215772], abs=1e-6)
    assert wrong == pytest.approx([-0.675429], abs=1e-6)
    assert advantages_of([make_visited([1])], PLAIN)[0] == pytest.approx([1 - 1.25 / 3.5])


def test_a_response_is_not_in_its_own_baseline_and_its_siblings_are() -> None:
    """Never seen, one right of two: 0.25 / 1.5 for the right one, 1.25 / 1.5 for the wrong one."""
    [both] = advantages_of([make_visited([1, 0], PromptRecord())], PLAIN)
    assert both == pytest.approx([1 - 1 / 6, -5 / 6])


def test_the_prior_is_the_pooled_pass_rate() -> None:
    """Never seen, one wrong, nine of ten of all others right: m = 0.9."""
    [alone] = advantages_of([make_visited([0], PromptRecord(pooled_mean=0.9))], PLAIN)
    assert alone == pytest.approx([-0.9])


def test_the_reward_has_no_say_but_for_right_and_wrong() -> None:
    [punished] = advantages_of([make_visited([0.25])], PLAIN)
    assert punished == pytest.approx([1 - 1.25 / 3.5])


def test_a_borrowed_response_is_no_outcome_of_the_step() -> None:
    """Two wrong, one of which a borrowed one replaces, after one right and two wrong: the other sees 1.25 / 3.5, the
    borrowed one, which has no part in n, 1.25 / 4.5."""
    lent = with_borrowed(make_visited([0, 0]), stored_answer(), seed=0, step=5)
    [advantages] = advantages_of([lent], PLAIN)
    assert sorted(advantages) == pytest.approx([-1.25 / 3.5, 1 - 1.25 / 4.5])


def test_a_cancelled_response_is_no_outcome_either() -> None:
    cut_off = make_scored(0.0, prompt_id="p0", name="c", finish_reason="abort")
    solved = make_visited([1])
    [advantages] = advantages_of([replace(solved, responses=(*solved.responses, cut_off))], PLAIN)
    assert advantages == pytest.approx([1 - 1.25 / 3.5, -2.25 / 4.5])


def test_what_was_to_be_expected_carries_no_gradient() -> None:
    """A thousand right before: another one is worth 0.005, a wrong one a lot. Only the row leaves, not its
    group."""
    known = PromptRecord(correct=1000.0, pooled_mean=0.9)
    assert advantages_of([make_visited([1], known)], HISTORY)[0].tolist() == [0.0]
    samples = samples_with_signal(
        [make_visited([1, 0], known), make_visited([1], known, position=1)], HISTORY, ReuseConfig()
    )
    assert [s.response_id for s in samples] == ["p0.1"]
    assert samples[0].advantage < -4


def test_with_the_threshold_at_0_every_row_trains() -> None:
    config = AlgorithmConfig(advantage="history", history_least_advantage=0.0)
    known = PromptRecord(correct=1000.0, pooled_mean=0.9)
    assert len(samples_with_signal([make_visited([1, 0], known)], config, ReuseConfig())) == 2
