"""`PromptHistory`: what earlier steps say of a prompt: how often it is solved, how long its answers are.

A decayed Beta estimate: each time a prompt is rolled out, what was known of it is multiplied by the decay and the new
verdicts are added, so old policies are forgotten. Nothing here is saved: the state is a function of the ledger's rows
in their order, and a resumed run replays them (`replay`), whatever its layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ar3po.sampling_cost import graded_in
from megatron_ar3po.types import ResponseGroup

_CAUTION = (
    8.0  # by which the chance of a later stage is raised where the order of prompts is chosen
)
_PRIOR = (1.0, 1.0)  # Beta(1, 1): every pass rate is as likely as any other


@dataclass(slots=True)
class _Seen:
    correct: float = 0.0  # decayed counts
    wrong: float = 0.0
    length_tokens: float = 0.0  # of the last step's answers, on average


class PromptHistory:
    """One replica's; a prompt has one owner."""

    def __init__(self, *, decay: float = 0.8) -> None:
        self._decay = decay
        self._seen: dict[str, _Seen] = {}
        self._total_length = 0.0  # over all that were seen

    def learn(self, groups: Sequence[ResponseGroup]) -> None:
        """After each rollout. Aborted answers say nothing of a prompt, nor do those for which the verifier failed."""
        for group in groups:
            graded = [s for s in group.responses if s.response.finish_reason != "abort"]
            self._add(
                group.prompt.prompt_id,
                num_responses=len(graded),
                num_correct=sum(s.is_correct for s in graded),
                tokens=sum(s.response.num_tokens for s in graded),
            )

    def replay(self, ledger_rows: Iterable[Mapping[str, Any]]) -> None:
        """The ledger's rows up to the step a run is resumed from."""
        for row in ledger_rows:
            if row.get("kind") == "prompt" and not row.get("abandoned"):
                graded = graded_in(row)
                self._add(
                    row["prompt_id"],
                    num_responses=graded.responses,
                    num_correct=row["correct"],
                    tokens=graded.tokens,
                )

    def is_known(self, prompt_id: str) -> bool:
        return prompt_id in self._seen

    def beta(self, prompt_id: str) -> tuple[float, float]:
        """Parameters of the pass rate's Beta distribution.

        >>> PromptHistory().beta("never seen")
        (1.0, 1.0)
        """
        seen = self._seen.get(prompt_id, _Seen())
        return _PRIOR[0] + seen.correct, _PRIOR[1] + seen.wrong

    def unsolved_frac(self, prompt_id: str, num_responses: int) -> float:
        """The expected chance that none of `num_responses` is correct: prod_{i < k} (b + i) / (a + b + i).

        >>> PromptHistory().unsolved_frac("never seen", 4)  # 1/2 * 2/3 * 3/4 * 4/5
        0.2
        """
        a, b = self.beta(prompt_id)
        chance = 1.0
        for i in range(num_responses):
            chance *= (b + i) / (a + b + i)
        return round(chance, 12)

    def likely_chain_tokens(
        self, prompt_id: str, stage_sizes: Sequence[int], *, num_done: int = 0
    ) -> float:
        """How long this prompt may yet keep a slot busy, one stage after the other, when the first `num_done` stages
        have not solved it: the longest work starts first. A stage that comes with a chance of 1/8 counts whole: one
        long chain that begins late makes the whole step wait, and one that begins early for nothing costs nothing. A
        prompt that was never seen has the mean length. This step's verdicts are left out on purpose: with them a prompt
        that failed once would overtake one that has its whole chain before it, and steps took up to 1.1 times as long
        (benchmarks/rollout_stages.py)."""
        seen = self._seen.get(prompt_id)
        length = seen.length_tokens if seen else self._mean_length()
        drawn, stages = 0, 0.0
        for size in stage_sizes[num_done:]:
            stages += min(1.0, _CAUTION * self.unsolved_frac(prompt_id, drawn))
            drawn += size
        return length * max(stages, 1.0)

    def _mean_length(self) -> float:
        if not self._seen:
            return 1.0
        return self._total_length / len(self._seen)

    def _add(self, prompt_id: str, *, num_responses: int, num_correct: int, tokens: int) -> None:
        if not num_responses:
            return
        seen = self._seen.setdefault(prompt_id, _Seen())
        seen.correct = self._decay * seen.correct + num_correct
        seen.wrong = self._decay * seen.wrong + num_responses - num_correct
        self._total_length += tokens / num_responses - seen.length_tokens
        seen.length_tokens = tokens / num_responses
