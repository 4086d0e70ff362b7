"""Whether a step's verdicts can teach at all: looked at before anything is stored or trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_ar3po.algorithm.advantages import check_rewards
from megatron_ar3po.types import ResponseGroup, VerdictStatus


class Judged(Protocol):
    """A verdict, or whatever else holds one."""

    @property
    def status(self) -> VerdictStatus: ...
    @property
    def reason(self) -> str: ...


class VerifierFailedError(RuntimeError):
    """The verifier gave no grade too often: the message says why and what to do."""


def check_verdicts(groups: Sequence[ResponseGroup], *, max_error_frac: float) -> None:
    """`groups`: all that a step had graded, discarded ones included. Raises ValueError for a reward that no advantage
    can be made of, and VerifierFailedError for a verifier that failed too often."""
    for group in groups:
        if group.responses:
            check_rewards(group)
    check_error_share(
        [r.verdict for g in groups for r in (*g.responses, *g.errored)],
        max_error_frac=max_error_frac,
        of="this step",
    )


def check_error_share(sampled: Sequence[Judged], *, max_error_frac: float, of: str) -> None:
    """`sampled`: all that was sampled for `of`. Raises VerifierFailedError where the verifier gave no grade to more
    than this share. Ungradable responses count: one may be a trick of the policy's, many are a verifier that hangs,
    and that would teach that everything is wrong."""
    failed = [verdict for verdict in sampled if verdict.status in ("ungradable", "error")]
    if len(failed) > max_error_frac * len(sampled):
        raise VerifierFailedError(
            f"the verifier failed for {len(failed)} of {len(sampled)} responses of {of}, more than "
            f"rewards.max_error_frac={max_error_frac}; the first reason: "
            f"{failed[0].reason or 'none given'}. Mend the "
            "verifier or the ground truths (ar3po grade shows one), then resume with run.resume=true."
        )
