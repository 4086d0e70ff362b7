"""How good a policy is on prompts, as metrics and as a result: pass@1 (the mean over all samples) and pass@k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import mean, stdev

from megatron_ar3po.records import Mean, Records, Sum
from megatron_ar3po.types import ScoredResponse


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
