"""`reuse.enabled=false`: nothing is stored, nothing is lent. Also what ranks hold that are no leaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_ar3po.records import Record
from megatron_ar3po.types import Prompt, ScoredResponse
from megatron_ar3po.update_stats import LoanOutcome


class NullStore:
    cursor: Mapping[str, int] = {}
    records: Mapping[str, Record] = {}

    def deposit(
        self, responses: Sequence[ScoredResponse], *, prompts: Mapping[str, Prompt], step: int
    ) -> int:
        return 0

    def shortlist(self, prompt_id: str, *, step: int, position: int) -> list[ScoredResponse]:
        return []

    def borrow(
        self,
        prompt_id: str,
        *,
        step: int,
        position: int = 0,
        mean_logprobs: Mapping[str, float] | None = None,
    ) -> ScoredResponse | None:
        return None

    def record_outcomes(self, outcomes: Sequence[LoanOutcome], *, step: int) -> None:
        pass

    def rollback(self, cursor: Mapping[str, int]) -> None:
        pass

    def commit_checkpoint(self, cursor: Mapping[str, int]) -> None:
        pass

    def close(self) -> None:
        pass
