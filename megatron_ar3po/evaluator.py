"""`Evaluator`: the held-out prompts, sampled between two steps of training with the same settings each time. `ar3po
evaluate` (evaluate.py) does the same to a policy that is not training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_ar3po.config.evaluation import EvaluationConfig
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.observability.accuracy import evaluation_records
from megatron_ar3po.observability.source_metrics import (
    evaluation_source_records,
    metric_sources,
)
from megatron_ar3po.records import Records, merge_records
from megatron_ar3po.types import Prompt, SamplingParams, ScoredResponse


class SampleResponses(Protocol):
    """`num_samples` responses of each prompt, after `step` steps of training."""

    def __call__(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        sampling: SamplingParams,
        *,
        step: int,
        policy_version: int,
    ) -> list[list[ScoredResponse]]: ...


class Evaluator:
    """Each replica samples the prompts it owns; `sample` runs on leaders."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sample: SampleResponses,
        ranks: Ranks,
        config: EvaluationConfig,
        sampling: SamplingParams,
    ) -> None:
        layout = ranks.layout
        kept = prompts[: config.max_prompts or None]
        self._mine = [p for p in kept if layout.owner_dp_rank(p.prompt_id) == layout.dp_rank]
        self._num_prompts = len(kept)
        self._sources = metric_sources(kept)
        self._sample = sample
        self._ranks = ranks
        self._config = config
        self._sampling = sampling

    @property
    def has_prompts(self) -> bool:
        return self._num_prompts > 0

    def evaluate(self, *, step: int, policy_version: int) -> Records:
        """Collective over all ranks. Seeds depend on prompt and sample only: before and after draw the same noise."""
        n = self._config.samples_per_prompt
        answers = self._ranks.run_on_leader(
            lambda: self._sample(
                self._mine, n, self._sampling, step=step, policy_version=policy_version
            )
        )
        of_sources = evaluation_source_records(self._mine, answers, self._sources)
        return merge_records(evaluation_records(answers), of_sources)
