"""Held-out prompts, the same settings before and after training: pass@1 (the mean over all samples) and pass@k."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import mean, stdev

from megatron_ar3po.config.evaluation import EvaluationConfig
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.records import Mean, Records, Sum
from megatron_ar3po.types import Prompt, SamplingParams, ScoredResponse

SampleResponses = Callable[[Sequence[Prompt], int, SamplingParams, int], list[list[ScoredResponse]]]


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
        self._sample = sample
        self._ranks = ranks
        self._config = config
        self._sampling = sampling

    @property
    def has_prompts(self) -> bool:
        return self._num_prompts > 0

    def evaluate(self, policy_version: int) -> Records:
        """Collective over all ranks. Seeds depend on prompt and sample only: before and after draw the same noise."""
        n = self._config.samples_per_prompt
        answers = self._ranks.run_on_leader(
            lambda: self._sample(self._mine, n, self._sampling, policy_version)
        )
        return evaluation_records(answers)


def evaluation_records(answers: Sequence[Sequence[ScoredResponse]]) -> Records:
    """`answers`: [P] prompts of n samples each. Weighted by prompt, so that replicas merge rightly."""
    prompts = len(answers)
    records = Records(
        {
            "eval/prompts": Sum(prompts),
            "eval/responses": Sum(sum(len(a) for a in answers)),
            "eval/tokens": Sum(sum(r.response.num_tokens for a in answers for r in a)),
        }
    )
    if not prompts:
        return records
    n = len(answers[0])
    correct = [sum(r.is_correct for r in a) for a in answers]
    records["eval/pass_at_1"] = Mean(sum(correct) / (n * prompts), prompts)
    if n > 1:
        solved = sum(pass_at_k(n, c, n) for c in correct)
        records[f"eval/pass_at_{n}"] = Mean(solved / prompts, prompts)
    lengths = [r.response.num_tokens for a in answers for r in a]
    records["eval/length_tokens"] = Mean(sum(lengths) / len(lengths), len(lengths))
    truncated = sum(r.response.finish_reason == "length" for a in answers for r in a)
    records["eval/truncated_frac"] = Mean(truncated / len(lengths), len(lengths))
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of [P] prompts with n samples each."""

    prompts: int
    samples_per_prompt: int
    pass_at_1: float  # the mean over all samples, also called avg@n
    pass_at_1_stderr: (
        float  # from the spread over prompts; samples of one prompt are not independent
    )
    pass_at_k: Mapping[int, float]  # k = 1, 2, 4, ... and n


def accuracy(answers: Sequence[Sequence[ScoredResponse]]) -> Accuracy:
    """`answers`: at least one prompt, n samples each."""
    n = len(answers[0])
    correct = [sum(r.is_correct for r in a) for a in answers]
    rates = [c / n for c in correct]
    ks = sorted({*(2**i for i in range(n.bit_length())), n})
    return Accuracy(
        prompts=len(answers),
        samples_per_prompt=n,
        pass_at_1=mean(rates),
        pass_at_1_stderr=stdev(rates) / sqrt(len(rates)) if len(rates) > 1 else 0.0,
        pass_at_k={k: mean(pass_at_k(n, c, k) for c in correct) for k in ks},
    )


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of solving a prompt within k samples, from n samples of which `correct` were right:
    1 - C(n - c, k) / C(n, k)  (Chen et al. 2021, arXiv:2107.03374, Eq. 1).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 4)
    (0.25, 1.0)
    """
    return 1.0 - comb(n - correct, k) / comb(n, k)
