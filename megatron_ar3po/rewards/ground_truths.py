"""The ground truths of a dataset, checked once before a run: can any response ever be graded against them?

A ground truth that the verifier cannot read would score every response 0, for ever and silently. Here each one must be
readable, and equal itself by the same layers that will judge responses.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.last_number import plain_number
from megatron_ar3po.rewards.math.answers import plain_value
from megatron_ar3po.rewards.math.grader import unusable_ground_truth
from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool, VerifierPoolError


def check_ground_truth(text: str, verifier: str = "math") -> str | None:
    """None when the verifier can grade against this ground truth, else one line that says why not. In this process:
    for a whole dataset take `check_ground_truths`, which puts limits around it."""
    if not text.strip():
        return "it is empty"
    if verifier == "last_number" and plain_number(text) is None:
        return f"{text[:80]!r} is no plain integer or decimal, which rewards.verifier=last_number compares with"
    return unusable_ground_truth(text) if verifier == "math" else None


def check_ground_truths(texts: Sequence[str], config: RewardsConfig) -> list[str | None]:
    """`check_ground_truth` for every text of a dataset, each distinct one once, in worker processes with the limits of
    the run. Raises VerifierPoolError where a worker fails: that says nothing of the text."""
    if config.verifier != "math":
        return [check_ground_truth(text, config.verifier) for text in texts]
    distinct = list(dict.fromkeys(texts))
    hard = [text for text in distinct if not text.strip() or plain_value(text.strip()) is None]
    reasons: dict[str, str | None] = dict.fromkeys(distinct)
    if hard:
        settings = PoolSettings(
            grader="check",
            num_workers=config.num_workers,
            timeout_s=config.timeout_s,
            memory_bytes=config.worker_memory_mb * 1024**2,
        )
        with VerifierPool(settings) as pool:
            for text, grade in zip(
                hard, pool.grade_all([("", text) for text in hard]), strict=True
            ):
                reasons[text] = why_unusable(text, grade)
    return [reasons[text] for text in texts]


def why_unusable(text: str, grade: Grade) -> str | None:
    """`grade`: of this ground truth held against itself. Raises VerifierPoolError where there is none."""
    if grade.status == "error":
        raise VerifierPoolError(
            f"the ground truth {text[:80]!r} could not be checked: {grade.reason}. Start again; if it happens again, "
            "look for what ends the verifier's workers."
        )
    return None if grade.status == "correct" else grade.reason or grade.status
