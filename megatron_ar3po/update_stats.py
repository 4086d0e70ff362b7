"""What an update reports: of itself, and of the borrowed responses that trained in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from megatron_ar3po.records import Mean, Record, Records, merge_records


@dataclass(frozen=True, slots=True, kw_only=True)
class LoanOutcome:
    """How one borrowed response trained; None where this part is measured elsewhere, or nowhere."""

    position: int  # of its group in the step
    response_id: str
    option: str | None = None  # 'detach' where it drifted too far, else reuse.option
    drift: float | None = None  # mean |log-prob recomputed - stored| over its tokens
    ratio: float | None = None  # mean over its tokens, in the update
    clip_frac: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """What one optimizer step reports, equal on every rank."""

    loss: float
    grad_norm: float
    learning_rate: float
    was_skipped: bool  # loss or gradient was not finite: the optimizer did not step
    token_records: Mapping[str, Record] = field(default_factory=Records)  # over the response tokens
    loans: tuple[LoanOutcome, ...] = ()  # of the borrowed responses that carried gradient

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
