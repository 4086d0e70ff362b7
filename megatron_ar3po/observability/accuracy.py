"""How good a policy is on prompts, as metrics and as a result: pass@1 (the mean over all samples, also called avg@n),
pass@k (one of k is right) and maj@k (the answer that most of k give is right).

A sample for which the verifier failed is neither right nor wrong: a prompt counts with those of its samples that are
graded, at pass@k and maj@k if they are at least k, and not at all when none is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import mean, stdev
from typing import NamedTuple

from megatron_ar3po.records import Mean, Records, StandardError, Sum
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
        if chances and k == 1:
            records["eval/pass_at_1_stderr"] = StandardError.of(chances)
    lengths = [r.response.num_tokens for a in answers for r in a]
    records["eval/length_tokens"] = Mean(sum(lengths) / len(lengths), len(lengths))
    truncated = sum(r.response.finish_reason == "length" for a in answers for r in a)
    records["eval/truncated_frac"] = Mean(truncated / len(lengths), len(lengths))
    return records


def set_records(name: str, answers: Sequence[Sequence[ScoredResponse]]) -> Records:
    """Of one set of a suite: the figures of an evaluation, and maj@n, as `eval/set/NAME/...`."""
    records = Records(
        {
            key.replace("eval/", f"eval/set/{name}/", 1): record
            for key, record in evaluation_records(answers).items()
        }
    )
    if not answers:
        return records
    n = len(answers[0])
    marks = [[mark(scored) for scored in answer] for answer in answers]
    if chances := chances_of_prompts(marks, n, maj_at_k_of_marks):
        records[f"eval/set/{name}/maj_at_{n}"] = Mean(mean(chances), len(chances))
    return records


class Mark(NamedTuple):
    """What a verifier made of one sample."""

    is_correct: bool | None  # None: the verifier failed
    answer: str | None  # as it was read; None where none was found


def mark(scored: ScoredResponse) -> Mark:
    return Mark(scored.is_correct if scored.is_graded else None, scored.verdict.extracted)


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
    maj_at_k: Mapping[int, float]  # the same k
    verifier_errors: int = 0  # samples that are not graded


def accuracy(answers: Sequence[Sequence[ScoredResponse]]) -> Accuracy:
    """`answers`: at least one prompt, n samples each, of which at least one is graded."""
    return accuracy_of_marks([[mark(scored) for scored in answer] for answer in answers])


def accuracy_of_marks(marks: Sequence[Sequence[Mark]]) -> Accuracy:
    """`marks`: of [P] prompts, at least one; n samples each, of which at least one is graded."""
    n = len(marks[0])
    rates = chances_of_prompts(marks, 1, pass_at_k_of_marks)
    if not rates:
        raise ValueError(
            f"the verifier failed for all {n * len(marks)} responses, so there is no accuracy; mend it "
            "(rewards.verifier) and evaluate again."
        )
    ks = sorted({*(2**i for i in range(n.bit_length())), n})
    passed = {k: chances_of_prompts(marks, k, pass_at_k_of_marks) for k in ks}
    won = {k: chances_of_prompts(marks, k, maj_at_k_of_marks) for k in ks}
    return Accuracy(
        prompts=len(marks),
        samples_per_prompt=n,
        pass_at_1=mean(rates),
        pass_at_1_stderr=stdev(rates) / sqrt(len(rates)) if len(rates) > 1 else 0.0,
        pass_at_k={k: mean(chances) for k, chances in passed.items() if chances},
        maj_at_k={k: mean(chances) for k, chances in won.items() if chances},
        verifier_errors=sum(m.is_correct is None for of_prompt in marks for m in of_prompt),
    )


def pass_at_k_of_prompts(answers: Sequence[Sequence[ScoredResponse]], k: int) -> list[float]:
    """pass@k of every prompt that has at least k graded samples."""
    marks = [[mark(scored) for scored in answer] for answer in answers]
    return chances_of_prompts(marks, k, pass_at_k_of_marks)


def chances_of_prompts(
    marks: Sequence[Sequence[Mark]], k: int, chance: Callable[[Sequence[Mark], int], float]
) -> list[float]:
    """Of every prompt that has at least k graded samples, from these."""
    graded = ([m for m in of_prompt if m.is_correct is not None] for of_prompt in marks)
    return [chance(of_prompt, k) for of_prompt in graded if len(of_prompt) >= k]


def pass_at_k_of_marks(marks: Sequence[Mark], k: int) -> float:
    return pass_at_k(len(marks), sum(m.is_correct is True for m in marks), k)


def maj_at_k_of_marks(marks: Sequence[Mark], k: int) -> float:
    """All right samples give one answer, however they spell it; wrong ones are alike where they are spelled alike."""
    wrong = Counter(
        m.answer.strip() for m in marks if not m.is_correct and m.answer and m.answer.strip()
    )
    correct = sum(m.is_correct is True for m in marks)
    silent = len(marks) - correct - wrong.total()
    return maj_at_k(correct, list(wrong.values()), silent, k)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of solving a prompt within k samples, from n samples of which `correct` were right:
    1 - C(n - c, k) / C(n, k)  (Chen et al. 2021, arXiv:2107.03374, Eq. 1).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 4)
    (0.25, 1.0)
    """
    return 1.0 - comb(n - correct, k) / comb(n, k)


def maj_at_k(correct: int, wrong: Sequence[int], silent: int, k: int) -> float:
    """Unbiased estimate of a majority vote of k samples (self-consistency, Wang et al. 2022, arXiv:2203.11171): the
    mean over all ways to choose k of the n samples at hand. `correct` of them are right, `wrong` counts those that give
    each wrong answer, and `silent` ones give none and no vote. Answers that tie for the most votes share them equally.

    Of 3 samples 2 are right, 1 is wrong. k = 1: 2/3. k = 2: one pair of three is right, two pairs tie: (1 + 2/2) / 3.

    >>> maj_at_k(2, [1], 0, 1) == maj_at_k(2, [1], 0, 2) == 2 / 3, maj_at_k(2, [1], 0, 3), maj_at_k(1, [1], 1, 3)
    (True, 1.0, 0.5)
    """
    ways = 0.0
    for votes in range(1, min(correct, k) + 1):
        # Ways to take the other k - votes samples, by how many they are and how many wrong answers tie.
        others = {(taken, 0): comb(silent, taken) for taken in range(min(silent, k - votes) + 1)}
        for count in wrong:
            others = _add_answer(others, count, votes=votes, room=k - votes)
        shared = sum(n / (ties + 1) for (taken, ties), n in others.items() if taken == k - votes)
        ways += comb(correct, votes) * shared
    return ways / comb(correct + sum(wrong) + silent, k)


def _add_answer(
    ways: Mapping[tuple[int, int], int], count: int, *, votes: int, room: int
) -> dict[tuple[int, int], int]:
    """With 0 to `votes` of the `count` samples that give one more wrong answer."""
    found: Counter[tuple[int, int]] = Counter()
    for (taken, ties), n in ways.items():
        for more in range(min(count, votes, room - taken) + 1):
            found[taken + more, ties + (more == votes)] += n * comb(count, more)
    return dict(found)
