from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.algorithm_cases import group, stored_answer

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import group_outcome, samples_with_signal
from megatron_ar3po.config.schema import AlgorithmConfig, ReuseConfig
from megatron_ar3po.types import ResponseGroup

PLAIN = AlgorithmConfig()


def rescued_group(position: int = 0) -> ResponseGroup:
    return with_borrowed(
        group([0, 0, 0, 0], position=position), stored_answer(position=position), seed=0, step=5
    )


def test_a_group_without_spread_gives_nothing() -> None:
    groups = [group([0, 0], position=0), group([1, 1], position=1), group([1], position=2)]
    assert samples_with_signal(groups, PLAIN, ReuseConfig()) == []


def test_every_response_of_a_group_with_spread_trains() -> None:
    """Rewards 1 0 0 0: 1.732047 and three times -0.577349."""
    samples = samples_with_signal([group([1, 0, 0, 0])], PLAIN, ReuseConfig())
    assert [s.response_id for s in samples] == ["p0.0", "p0.1", "p0.2", "p0.3"]
    assert [s.advantage for s in samples] == pytest.approx([1.732047] + [-0.577349] * 3, abs=1e-6)
    assert [s.reward for s in samples] == [1, 0, 0, 0]
    assert samples[0].prompt_token_ids == (1, 2)
    assert samples[0].response_token_ids.tolist() == [0, 1, 2]
    assert not any(s.uses_stored_logprobs for s in samples)


def test_a_detached_response_serves_the_normalisation_and_is_gone() -> None:
    """Option II: the three incorrect ones get -0.577349 each, as if the fourth stood beside them."""
    samples = samples_with_signal([rescued_group()], PLAIN, ReuseConfig(option="detach"))
    assert [s.advantage for s in samples] == pytest.approx([-0.577349] * 3, abs=1e-6)
    assert {s.origin for s in samples} == {"fresh"}


@pytest.mark.parametrize(("option", "uses_stored"), [("recompute", False), ("stored", True)])
def test_a_recomputed_or_stored_response_trains_beside_its_siblings(
    option: str, uses_stored: bool
) -> None:
    samples = samples_with_signal([rescued_group()], PLAIN, ReuseConfig(option=option))  # type: ignore[arg-type]
    [borrowed] = [s for s in samples if s.origin == "reused"]
    assert len(samples) == 4
    assert borrowed.advantage == pytest.approx(1.732047, abs=1e-6)
    assert borrowed.policy_version == 0
    assert [s.uses_stored_logprobs for s in samples] == [
        uses_stored and s is borrowed for s in samples
    ]


def test_samples_come_in_the_order_of_position_and_response() -> None:
    groups = [group([0, 1], position=9), group([1, 0], position=2), group([0, 0], position=4)]
    samples = samples_with_signal(groups, PLAIN, ReuseConfig())
    assert [s.response_id for s in samples] == ["p2.0", "p2.1", "p9.0", "p9.1"]


@pytest.mark.parametrize("advantage", ["group", "rloo", "global"])
def test_the_samples_do_not_depend_on_which_replica_holds_a_group(advantage: str) -> None:
    """Three groups on one replica, or two on one and one on another that both see the whole step. Global: rewards 1 0
    1 1 0 0 0, mean 3/7."""
    step = [group([1, 0], position=0), group([1, 1], position=1), group([0, 0, 0], position=2)]
    config, reuse = AlgorithmConfig(advantage=advantage), ReuseConfig()
    alone = samples_with_signal(step, config, reuse)
    first = samples_with_signal([step[2], step[0]], config, reuse, whole_step=step)
    second = samples_with_signal([step[1]], config, reuse, whole_step=step[::-1])
    apart = {s.response_id: s.advantage for s in first + second}
    assert apart == {s.response_id: s.advantage for s in alone}
    assert len(alone) == (7 if advantage == "global" else 2)


def truncated(whole: ResponseGroup, index: int) -> ResponseGroup:
    responses = list(whole.responses)
    cut = replace(responses[index].response, finish_reason="length")
    responses[index] = replace(responses[index], response=cut)
    return replace(whole, responses=tuple(responses))


def test_overlong_filtering_drops_a_truncated_response_after_the_normalisation() -> None:
    """Its siblings keep the advantages they have beside it."""
    groups = [truncated(group([1, 0, 0, 0]), 2)]
    config = AlgorithmConfig(overlong_filtering=True)
    samples = samples_with_signal(groups, config, ReuseConfig())
    assert [s.response_id for s in samples] == ["p0.0", "p0.1", "p0.3"]
    assert [s.advantage for s in samples] == pytest.approx([1.732047] + [-0.577349] * 2, abs=1e-6)
    assert len(samples_with_signal(groups, PLAIN, ReuseConfig())) == 4


def test_a_response_without_tokens_has_nothing_to_train() -> None:
    samples = samples_with_signal([group([1, 0, 0], lengths=[3, 0, 2])], PLAIN, ReuseConfig())
    assert [s.response_id for s in samples] == ["p0.0", "p0.2"]


def test_a_response_of_average_reward_still_counts_in_the_denominators() -> None:
    samples = samples_with_signal([group([0, 0.5, 1])], PLAIN, ReuseConfig())
    assert [s.advantage for s in samples] == pytest.approx([-1.224742, 0, 1.224742], abs=1e-5)


def test_the_outcome_of_a_group_names_what_it_could_teach() -> None:
    assert group_outcome(group([1, 1])) == "all_correct"
    assert group_outcome(group([1, 0])) == "mixed"
    assert group_outcome(group([0, 0])) == "all_wrong"
    assert group_outcome(rescued_group()) == "rescued"
