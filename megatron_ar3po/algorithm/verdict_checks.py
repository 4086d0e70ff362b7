"""Whether a step's verdicts can teach at all: looked at before anything is stored or trained on."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ar3po.algorithm.advantages import check_rewards
from megatron_ar3po.types import ResponseGroup, ScoredResponse


def is_verifier_failure(scored: ScoredResponse) -> bool:
    """The verifier could not say; the response itself may have been right."""
    return scored.verdict.status in ("timeout", "error")


def check_verdicts(groups: Sequence[ResponseGroup], *, max_error_frac: float) -> None:
    """`groups`: all that a step had graded, discarded ones included. Raises ValueError for a reward that no advantage
    can be made of, and RuntimeError for a verifier that failed too often: it would teach the policy that everything is
    wrong."""
    for group in groups:
        check_rewards(group)
    scored = [r for g in groups for r in g.responses]
    failed = [r for r in scored if is_verifier_failure(r)]
    if len(failed) > max_error_frac * len(scored):
        raise RuntimeError(
            f"the verifier failed for {len(failed)} of {len(scored)} responses of this step, more than "
            f"rewards.max_error_frac={max_error_frac}; the first reason: "
            f"{failed[0].verdict.reason or 'none given'}. Mend the "
            "verifier or the ground truths (ar3po grade shows one), then resume with run.resume=true."
        )
