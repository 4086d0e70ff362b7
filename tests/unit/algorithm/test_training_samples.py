from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes.algorithm_cases import group, make_errored, stored_answer

from megatron_ar3po.algorithm.advantages import carries_signal, is_mixed
from megatron_ar3po.algorithm.response_reuse import (
    needs_a_loan,
    responses_worth_keeping,
    with_borrowed,
)
from megatron_ar3po.algorithm.training_samples import (
    group_outcome,
    needs_the_whole_step,
    samples_with_signal,
    why_nothing_trains,
    with_kl_penalty,
)
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.types import ResponseGroup, RowKey

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
    assert not any(s.uses_behaviour_logprobs for s in samples)


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
    assert [s.uses_behaviour_logprobs for s in samples] == [
        uses_stored and s is borrowed for s in samples
    ]


@pytest.mark.parametrize(("option", "marked"), [("recompute", [0, 1, 1, 1]), ("stored", [1] * 4)])
def test_the_servers_log_probs_are_for_fresh_responses_and_a_loan_has_its_own_option(
    option: str, marked: list[int]
) -> None:
    algorithm = AlgorithmConfig(old_logprobs="behaviour")
    samples = samples_with_signal([rescued_group()], algorithm, ReuseConfig(option=option))  # type: ignore[arg-type]
    found = sorted((s.origin == "fresh", s.uses_behaviour_logprobs) for s in samples)
    assert [uses for _, uses in found] == marked


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


def truncate(whole: ResponseGroup, index: int) -> ResponseGroup:
    responses = list(whole.responses)
    cut = replace(responses[index].response, finish_reason="length")
    responses[index] = replace(responses[index], response=cut)
    return replace(whole, responses=tuple(responses))


def test_overlong_filtering_drops_a_truncated_response_after_the_normalisation() -> None:
    """Its siblings keep the advantages they have beside it."""
    groups = [truncate(group([1, 0, 0, 0]), 2)]
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


@pytest.mark.parametrize("option", ["detach", "recompute"])
def test_the_weight_of_a_loan_scales_the_whole_group_and_no_other(option: str) -> None:
    """A quarter of 1.732047 and -0.577349; the mixed group beside it keeps +-0.999998."""
    reuse = ReuseConfig(option=option, weight=0.25)  # type: ignore[arg-type]
    samples = samples_with_signal([rescued_group(0), group([1, 0], position=1)], PLAIN, reuse)
    of_rescued = sorted(s.advantage for s in samples if s.group_position == 0)
    expected = [-0.144337] * 3 + ([0.433012] if option == "recompute" else [])
    assert of_rescued == pytest.approx(expected, abs=1e-6)
    assert [s.advantage for s in samples[-2:]] == pytest.approx([0.999998, -0.999998], abs=1e-6)


def test_the_cap_on_loans_looks_at_the_groups_with_signal_of_all_replicas() -> None:
    """Three groups with signal of their own and four that borrowed, over two replicas: at most 0.4 of those that train
    have borrowed, so 2 of 5. The all-correct group does not count."""
    step = [group([1, 0], position=p) for p in range(3)]
    step += [rescued_group(p) for p in range(3, 7)] + [group([1, 1], position=7)]
    reuse = ReuseConfig(max_borrowed_frac=0.4)
    assert needs_the_whole_step(PLAIN, reuse) and not needs_the_whole_step(PLAIN, ReuseConfig())
    alone = {s.group_position for s in samples_with_signal(step, PLAIN, reuse)}
    first = samples_with_signal(step[::2], PLAIN, reuse, whole_step=step)
    second = samples_with_signal(step[1::2], PLAIN, reuse, whole_step=step[::-1])
    assert {s.group_position for s in first + second} == alone
    assert {0, 1, 2} < alone and len(alone) == 5


def test_a_step_in_which_everything_is_masked_gives_nothing_and_says_why() -> None:
    everything_cut = truncate(truncate(group([1, 0]), 0), 1)
    config = AlgorithmConfig(overlong_filtering=True)
    groups = [everything_cut, group([1, 1], position=1), group([0, 0], position=2)]
    assert samples_with_signal(groups, config, ReuseConfig()) == []
    said = "3 groups: 1 all_correct, 1 all_wrong, 1 mixed; 2 of 6 responses truncated"
    assert why_nothing_trains(groups) == said
    assert why_nothing_trains([]) == "0 groups: none; 0 of 0 responses truncated"


def test_a_kl_penalty_is_taken_off_the_reward_before_the_normalisation() -> None:
    """Rewards 1 0 0 0 less 0.1 * (2, 0, -1, 4) are 0.8 0 0.1 -0.4: mean 0.125, centred 0.675 -0.125 -0.025 -0.525,
    std sqrt(0.74750 / 4) = 0.432290."""
    kl = {RowKey(0, f"p0.{i}", "fresh"): kl for i, kl in enumerate([2.0, 0.0, -1.0, 4.0])}
    penalised = with_kl_penalty(group([1, 0, 0, 0]), kl, 0.1)
    samples = samples_with_signal([penalised], PLAIN, ReuseConfig())
    expected = [1.561447, -0.289156, -0.057831, -1.214459]
    assert [s.advantage for s in samples] == pytest.approx(expected, abs=1e-6)
    assert [s.reward for s in samples] == [1, 0, 0, 0]
    rloo = samples_with_signal([penalised], AlgorithmConfig(advantage="rloo"), ReuseConfig())
    assert rloo[0].advantage == pytest.approx(0.8 - (0 + 0.1 - 0.4) / 3)


def test_a_detached_response_has_no_penalty_though_it_serves_the_normalisation() -> None:
    """It has no row, so the actor says nothing of it."""
    rescued = rescued_group()
    index = [s.origin for s in rescued.responses].index("reused")
    kl = {
        s.row_key: 1.0 for s in samples_with_signal([rescued], PLAIN, ReuseConfig(option="detach"))
    }
    penalised = with_kl_penalty(rescued, kl, 0.5)
    expected = [-0.5] * 4
    expected[index] = 1.0
    assert penalised.penalised_rewards.tolist() == expected
    assert penalised.rewards.tolist() == rescued.rewards.tolist()


@pytest.mark.parametrize("advantage", ["group", "rloo", "leave_one_out", "global_baseline"])
def test_a_group_that_differs_in_its_kl_alone_teaches_nothing(advantage: str) -> None:
    kl = {(0, "p0.0"): 2.0, (0, "p0.1"): 0.0}
    groups = [with_kl_penalty(group([1, 1]), kl, 0.1), group([1, 0], position=1)]
    samples = samples_with_signal(groups, AlgorithmConfig(advantage=advantage), ReuseConfig())
    assert {s.group_position for s in samples} == {1}


@pytest.mark.parametrize(
    "advantage", ["group", "rloo", "leave_one_out", "global", "global_baseline"]
)
def test_a_group_is_what_is_graded_of_it(advantage: Any) -> None:
    """Rewards 1 0 and two responses that the verifier failed for train as a group of two; a group for which it failed
    altogether trains nothing, and the step's mean and std do not see it."""
    config = AlgorithmConfig(advantage=advantage)
    graded = group([1, 0])
    failed = (make_errored(name="e0"), make_errored(name="e1"))
    groups = [replace(graded, left_out=failed), replace(group([], position=1), left_out=failed)]
    samples = samples_with_signal(groups, config, ReuseConfig())
    expected = samples_with_signal([graded], config, ReuseConfig())
    assert [(s.response_id, s.advantage) for s in samples] == [
        (s.response_id, s.advantage) for s in expected
    ]
    assert [s.response_id for s in samples] == ["p0.0", "p0.1"]
    if advantage == "group":
        assert [s.advantage for s in samples] == pytest.approx([0.999998, -0.999998])


def test_a_group_without_graded_responses_borrows_nothing_and_is_counted() -> None:
    lost = replace(group([]), left_out=(make_errored(),))
    assert group_outcome(lost) == "verifier_error"
    assert not needs_a_loan(lost)
    assert not carries_signal(lost) and not is_mixed(lost)
    assert responses_worth_keeping([lost]) == []
    assert why_nothing_trains([lost]).startswith("1 groups: 1 verifier_error")


def test_advantages_below_0_have_a_weight_of_their_own() -> None:
    """Sample std: 1.5 -0.5 -0.5 -0.5; times 0.4 below 0, and all of a group that borrowed times 0.5."""
    config = AlgorithmConfig(advantage_std="sample", negative_weight=0.4)
    groups = [group([1, 0, 0, 0]), rescued_group(1)]
    samples = samples_with_signal(groups, config, ReuseConfig(weight=0.5))
    advantages = [s.advantage for s in samples]
    assert advantages[:4] == pytest.approx([1.5, -0.2, -0.2, -0.2], abs=1e-5)
    assert sorted(advantages[4:]) == pytest.approx([-0.1, -0.1, -0.1, 0.75], abs=1e-5)


def test_a_weight_of_0_leaves_the_denominators_and_takes_the_gradient() -> None:
    config = AlgorithmConfig(negative_weight=0.0)
    samples = samples_with_signal([group([1, 0, 0, 0])], config, ReuseConfig())
    assert [s.advantage for s in samples] == pytest.approx([1.732047, 0, 0, 0], abs=1e-6)
