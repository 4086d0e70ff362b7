from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.algorithm_cases import group, make_errored, stored_answer

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.observability.step_metrics import group_records, loan_records, rollout_records
from megatron_ar3po.records import Mean, Sum
from megatron_ar3po.rollout.ledger_rows import prompt_row
from megatron_ar3po.sampling_cost import cost_records
from megatron_ar3po.types import ResponseGroup, Verdict


def make_rescued(position: int) -> ResponseGroup:
    lent = stored_answer(position=position)
    return with_borrowed(group([0] * 4, position=position), lent, seed=0, step=5)


def test_what_loans_teach_is_their_share_of_groups_and_of_advantages() -> None:
    """Two groups of two with advantages +-0.999998 at 3 tokens: mass 12. One rescued of four under Option II: three
    times 0.577349 at 3 tokens, 5.196. One loan beyond the cap of 0.34 (1 of 3) is idle."""
    groups = [group([1, 0], position=p) for p in (0, 1)] + [make_rescued(2), make_rescued(3)]
    reuse = ReuseConfig(option="detach", max_borrowed_frac=0.34)
    samples = samples_with_signal(groups, AlgorithmConfig(), reuse)
    records = loan_records(groups, samples)
    assert records["reuse/idle_loans"] == Sum(1)
    assert records["reuse/signal_frac"] == Mean(1 / 3, 3)
    mass = records["reuse/advantage_mass_frac"]
    assert isinstance(mass, Mean)
    assert mass.weight == pytest.approx(12 + 5.196, abs=1e-3)
    assert mass.value == pytest.approx(5.196 / 17.196, abs=1e-4)


def test_a_step_without_samples_has_no_share_to_report() -> None:
    assert loan_records([group([0, 0])], []) == {"reuse/idle_loans": Sum(0)}


def test_groups_are_counted_by_how_they_ended_and_by_whether_they_teach() -> None:
    """Four groups, one of each outcome. Two have unlike rewards: the mixed one and the rescued one."""
    groups = [group([1, 1]), group([1, 0], position=1), group([0, 0], position=2), make_rescued(3)]
    samples = samples_with_signal(groups, AlgorithmConfig(), ReuseConfig())
    assert group_records(groups, samples) == {
        "group/signal_groups": Sum(2),
        "group/all_correct_frac": Mean(0.25, 4),
        "group/mixed_frac": Mean(0.25, 4),
        "group/all_wrong_frac": Mean(0.25, 4),
        "group/rescued_frac": Mean(0.25, 4),
        "group/verifier_error_frac": Mean(0.0, 4),
        "group/no_signal_frac": Mean(0.5, 4),
    }


def test_a_response_that_the_verifier_failed_for_is_cost_without_a_reward() -> None:
    """Rewards 1 0 and one failure; a group of two failures. Five responses of 3 tokens, a mean of 1/2 over two."""
    failed = make_errored()
    groups = [
        replace(group([1, 0]), left_out=(failed,)),
        replace(group([], position=1), left_out=(failed, failed)),
    ]
    records = rollout_records(groups)
    rows = [prompt_row(g, step=1, policy_version=0, is_discarded=False) for g in groups]
    cost = cost_records(rows)
    assert cost["rollout/responses_generated"] == Sum(5)
    assert cost["rollout/tokens_generated"] == Sum(15)
    assert cost["rollout/cost/ungraded_responses"] == Sum(3)
    assert records["rollout/responses_per_prompt"] == Mean(2.5, 2)
    assert records["rollout/verifier_errors"] == Sum(3)
    assert records["reward/mean"] == records["reward/correct_frac"] == Mean(0.5, 2)
    assert records["reward/verifier_error_frac"] == Mean(pytest.approx(3 / 5), 5)
    samples = samples_with_signal(groups, AlgorithmConfig(), ReuseConfig())
    of_groups = group_records(groups, samples)
    assert of_groups["group/verifier_error_frac"] == Mean(0.5, 2)
    assert of_groups["group/no_signal_frac"] == Mean(0.5, 2)


def test_an_ungradable_response_is_counted_and_has_its_reward() -> None:
    verdict = Verdict(reward=-1.0, status="ungradable")
    whole = group([1, 0])
    punished = replace(whole.responses[1], verdict=verdict)
    records = rollout_records([replace(whole, responses=(whole.responses[0], punished))])
    assert records["reward/mean"] == Mean(0.0, 2)
    assert records["reward/ungradable_frac"] == Mean(0.5, 2)
    assert records["reward/verifier_error_frac"] == Mean(0.0, 2)


def test_a_replica_without_groups_reports_no_shares() -> None:
    assert group_records([], []) == {"group/signal_groups": Sum(0)}
