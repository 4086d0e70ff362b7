"""`Evaluator`: the held-out prompts, sampled between two steps of training with the same settings each time. `ar3po
evaluate` (evaluation/) does the same to a policy that is not training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.observability.accuracy import evaluation_records, set_records
from megatron_ar3po.observability.source_metrics import (
    evaluation_source_records,
    metric_sources,
)
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.records import Records, merge_records
from megatron_ar3po.types import ScoredResponse


class SampleResponses(Protocol):
    """The responses to each prompt of each set, after `step` steps of training."""

    def __call__(
        self, sets: Sequence[PromptSet], *, step: int, policy_version: int
    ) -> list[list[list[ScoredResponse]]]: ...


class Evaluator:
    """Each replica samples the prompts it owns; `sample` runs on leaders. A set without a name holds the held-out
    prompts of evaluation.path; the others are those of evaluation.suites. Sets without prompts are left out."""

    def __init__(self, sets: Sequence[PromptSet], sample: SampleResponses, ranks: Ranks) -> None:
        layout = ranks.layout
        whole = [found for found in sets if found.prompts]
        self._mine = [
            replace(
                found,
                prompts=[
                    p for p in found.prompts if layout.owner_dp_rank(p.prompt_id) == layout.dp_rank
                ],
            )
            for found in whole
        ]
        self._sources = [metric_sources(p.source for p in found.prompts) for found in whole]
        self._sample = sample
        self._ranks = ranks

    @property
    def has_prompts(self) -> bool:
        return bool(self._mine)

    def evaluate(self, *, step: int, policy_version: int) -> Records:
        """Collective over all ranks. Seeds depend on prompt and sample only: before and after draw the same noise."""
        answers = self._ranks.run_on_leader(
            lambda: self._sample(self._mine, step=step, policy_version=policy_version)
        )
        records = Records()
        for found, sources, of_set in zip(self._mine, self._sources, answers, strict=True):
            if found.name:
                own = set_records(found.name, of_set)
            else:
                of_sources = evaluation_source_records(found.prompts, of_set, sources)
                own = merge_records(evaluation_records(of_set), of_sources)
            records = merge_records(records, own)
        return records
