from __future__ import annotations

import pytest
from fakes.algorithm_cases import group, stored_answer

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.observability.step_metrics import group_records, loan_records
from megatron_ar3po.records import Mean, Sum
from megatron_ar3po.types import ResponseGroup


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
        "group/no_signal_frac": Mean(0.5, 4),
    }


def test_a_replica_without_groups_reports_no_shares() -> None:
    assert group_records([], []) == {"group/signal_groups": Sum(0)}
