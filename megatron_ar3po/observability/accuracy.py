"""How good a policy is on prompts, as metrics and as a result: pass@1 (the mean over all samples) and pass@k.

A sample for which the verifier failed is neither right nor wrong: a prompt counts with those of its samples that are
graded, at pass@k if they are at least k, and not at all when none is.
"""

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
            "eval/verifier_errors": Sum(sum(not r.is_graded for a in answers for r in a)),
        }
    )
    if not prompts:
        return records
    n = len(answers[0])
    for k in {1, n}:
        chances = pass_at_k_of_prompts(answers, k)
        if chances:
            records[f"eval/pass_at_{k}"] = Mean(mean(chances), len(chances))
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
    verifier_errors: int = 0  # samples that are not graded


def accuracy(answers: Sequence[Sequence[ScoredResponse]]) -> Accuracy:
    """`answers`: at least one prompt, n samples each, of which at least one is graded."""
    n = len(answers[0])
    rates = pass_at_k_of_prompts(answers, 1)
    if not rates:
        raise ValueError(
            f"the verifier failed for all {n * len(answers)} responses, so there is no accuracy; mend it "
            "(rewards.verifier) and evaluate again."
        )
    ks = sorted({*(2**i for i in range(n.bit_length())), n})
    by_k = {k: pass_at_k_of_prompts(answers, k) for k in ks}
    return Accuracy(
        prompts=len(answers),
        samples_per_prompt=n,
        pass_at_1=mean(rates),
        pass_at_1_stderr=stdev(rates) / sqrt(len(rates)) if len(rates) > 1 else 0.0,
        pass_at_k={k: mean(chances) for k, chances in by_k.items() if chances},
        verifier_errors=sum(not r.is_graded for a in answers for r in a),
    )


def pass_at_k_of_prompts(answers: Sequence[Sequence[ScoredResponse]], k: int) -> list[float]:
    """pass@k of every prompt that has at least k graded samples."""
    marks = [[r.is_correct for r in answer if r.is_graded] for answer in answers]
    return [pass_at_k(len(m), sum(m), k) for m in marks if len(m) >= k]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of solving a prompt within k samples, from n samples of which `correct` were right:
    1 - C(n - c, k) / C(n, k)  (Chen et al. 2021, arXiv:2107.03374, Eq. 1).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 4)
    (0.25, 1.0)
    """
    return 1.0 - comb(n - correct, k) / comb(n, k)
