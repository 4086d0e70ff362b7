"""What an update reports: of itself, and of the borrowed responses that trained in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megatron_ar3po.records import Mean, Record, Records, merge_records
from megatron_ar3po.types import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class LoanOutcome:
    """How one borrowed response trained; None where this part is measured elsewhere, or nowhere."""

    position: int  # of its group in the step
    response_id: str
    option: str | None = None  # 'detach' where it drifted too far, else reuse.option
    drift: float | None = None  # mean |log-prob recomputed - stored| over its tokens
    ratio: float | None = None  # mean over its tokens, in the update
    clip_frac: float | None = None


def tell_loan(
    sample: TrainingSample, row: Sequence[float], *, measures_drift: bool, was_skipped: bool
) -> LoanOutcome | None:
    """What an update tells of a borrowed response. `row`: its tokens, the sum of their ratios, those clipped, and the
    sum of abs(log-prob - stored log-prob). `measures_drift`: those log-probs are of the policy at the start of the
    step, and nobody has told the drift before. A skipped update has trained nothing, yet the drift is what it is. None
    where there is nothing to tell.

    4 tokens, ratios 4.4, 1 clipped, 2.0: ratio 1.1, clip_frac 0.25, drift 0.5.
    """
    num_tokens, ratios, num_clipped, distance = row
    measures_drift = measures_drift and not sample.uses_behaviour_logprobs
    if was_skipped and not measures_drift:
        return None
    return LoanOutcome(
        position=sample.group_position,
        response_id=sample.response_id,
        option="recompute" if measures_drift else None,
        drift=distance / num_tokens if measures_drift else None,
        ratio=None if was_skipped else ratios / num_tokens,
        clip_frac=None if was_skipped else num_clipped / num_tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """What one optimizer step reports, equal on every rank."""

    loss: float
    grad_norm: float
    learning_rate: float
    was_skipped: bool  # loss or gradient was not finite: the optimizer did not step
    token_records: Mapping[str, Record] = field(default_factory=Records)  # over the response tokens
    loans: tuple[LoanOutcome, ...] = ()  # of the borrowed responses that carry gradient

    @property
    def records(self) -> Records:
        """All of it as metrics. A skipped update has none: what is not finite would hide what the others of the step
        came to."""
        if self.was_skipped:
            return Records()
        return merge_records(
            {
                "actor/loss": Mean(self.loss),
                "actor/grad_norm": Mean(self.grad_norm),
                "actor/learning_rate": Mean(self.learning_rate),
            },
            self.token_records,
        )
