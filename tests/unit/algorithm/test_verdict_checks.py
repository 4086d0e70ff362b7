from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.algorithm_cases import group

from megatron_ar3po.algorithm.verdict_checks import VerifierFailedError, check_verdicts
from megatron_ar3po.types import ResponseGroup, Verdict


def make_graded(*statuses: str, position: int = 0) -> ResponseGroup:
    """Responses with these statuses; those with 'error' have left the group."""
    whole = group([0] * len(statuses), position=position)
    scored = [
        replace(
            r,
            verdict=Verdict(
                reward=None if status == "error" else 0.0,
                status=status,  # type: ignore[arg-type]
                reason="sympy died",
            ),
        )
        for r, status in zip(whole.responses, statuses, strict=True)
    ]
    return replace(
        whole,
        responses=tuple(s for s in scored if s.is_graded),
        left_out=tuple(s for s in scored if not s.is_graded),
    )


def test_a_verifier_that_fails_for_more_than_its_share_halts_the_run() -> None:
    """Errors and ungradable responses are counted among all that were sampled."""
    check_verdicts(
        [make_graded("error", "ungradable", "incorrect", "no_answer")], max_error_frac=0.5
    )
    with pytest.raises(
        VerifierFailedError,
        match=r"failed for 3 of 4 responses of this step.*max_error_frac=0.5.*sympy died",
    ):
        check_verdicts(
            [make_graded("error", "ungradable"), make_graded("error", "correct")],
            max_error_frac=0.5,
        )


def test_a_group_without_any_graded_response_is_no_fault_of_its_own() -> None:
    """Two of six failed, less than half: the group alone would be all of it."""
    groups = [make_graded("error", "error"), make_graded("correct", *["incorrect"] * 3)]
    check_verdicts(groups, max_error_frac=0.5)
    with pytest.raises(RuntimeError, match="2 of 2"):
        check_verdicts(groups[:1], max_error_frac=0.5)


def test_no_failure_is_borne_with_a_share_of_zero_and_nothing_graded_is_no_failure() -> None:
    check_verdicts([make_graded("incorrect")], max_error_frac=0.0)
    check_verdicts([], max_error_frac=0.0)
    with pytest.raises(RuntimeError, match="1 of 2"):
        check_verdicts([make_graded("error", "correct")], max_error_frac=0.0)


def test_a_reward_that_is_no_number_is_named_before_anything_is_made_of_it() -> None:
    whole = group([0.0, float("nan")], position=3)
    with pytest.raises(ValueError, match=r"position 3.*response p3\.1 has reward nan"):
        check_verdicts([whole], max_error_frac=1.0)
