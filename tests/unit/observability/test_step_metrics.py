from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.algorithm_cases import group, stored_answer

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.algorithm.training_samples import samples_with_signal
from megatron_ar3po.config.schema import AlgorithmConfig, ReuseConfig
from megatron_ar3po.observability.metrics import Mean, Sum
from megatron_ar3po.observability.step_metrics import loan_records, refuse_a_failing_verifier
from megatron_ar3po.types import ResponseGroup, Verdict


def rescued(position: int) -> ResponseGroup:
    lent = stored_answer(position=position)
    return with_borrowed(group([0] * 4, position=position), lent, seed=0, step=5)


def test_what_loans_teach_is_their_share_of_groups_and_of_advantages() -> None:
    """Two groups of two with advantages +-0.999998 at 3 tokens: mass 12. One rescued of four under Option II: three
    times 0.577349 at 3 tokens, 5.196. One loan beyond the cap of 0.34 (1 of 3) is idle."""
    groups = [group([1, 0], position=p) for p in (0, 1)] + [rescued(2), rescued(3)]
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


def graded(*statuses: str, position: int = 0) -> ResponseGroup:
    whole = group([0] * len(statuses), position=position)
    responses = [
        replace(r, verdict=Verdict(reward=0.0, status=status, reason="sympy died"))  # type: ignore[arg-type]
        for r, status in zip(whole.responses, statuses, strict=True)
    ]
    return replace(whole, responses=tuple(responses))


def test_a_verifier_that_fails_for_more_than_its_share_halts_the_run() -> None:
    refuse_a_failing_verifier([graded("error", "timeout", "incorrect", "no_answer")], 0.5)
    with pytest.raises(RuntimeError, match=r"failed for 3 of 4 .*max_error_frac=0.5.*sympy died"):
        refuse_a_failing_verifier([graded("error", "timeout"), graded("error", "correct")], 0.5)


def test_no_failure_is_borne_with_a_share_of_zero_and_nothing_graded_is_no_failure() -> None:
    refuse_a_failing_verifier([graded("incorrect")], 0.0)
    refuse_a_failing_verifier([], 0.0)
    with pytest.raises(RuntimeError, match="1 of 2"):
        refuse_a_failing_verifier([graded("error", "correct")], 0.0)
