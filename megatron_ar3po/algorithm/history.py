"""`PromptHistory`: what earlier steps say of a prompt: how often it is solved, how long its answers are.

A decayed Beta estimate: each time a prompt is rolled out, what was known of it is multiplied by the decay and the new
verdicts are added, so old policies are forgotten; with a half-life, counts also age with every response of the run,
visited or not. The pass rate of all prompts together, or of those of a source, is decayed once a step. Failed and
aborted responses teach nothing, nor do borrowed ones.

Every replica learns the outcomes of all of them, in the order of prompt ids, so the history does not depend on the
layout. Nothing here is saved: the state is a function of the ledger's rows, and a resumed run replays them (`replay`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

from megatron_ar3po.algorithm.prompt_table import PromptTable, TableRow
from megatron_ar3po.prompt_record import NEVER_SEEN, PromptOutcome, PromptRecord
from megatron_ar3po.sampling_cost import graded_in
from megatron_ar3po.types import Prompt, ResponseGroup

_CAUTION = (
    8.0  # by which the chance of a later stage is raised where the order of prompts is chosen
)
_PRIOR = (1.0, 1.0)  # Beta(1, 1): every pass rate is as likely as any other


def outcomes_of(groups: Iterable[ResponseGroup]) -> list[PromptOutcome]:
    """Of one step, before any borrowing."""
    found: list[PromptOutcome] = []
    for group in groups:
        graded = [s for s in group.responses if s.response.finish_reason != "abort"]
        found.append(
            PromptOutcome(
                prompt_id=group.prompt.prompt_id,
                source=group.prompt.source,
                responses=len(graded),
                correct=sum(s.is_correct for s in graded),
                tokens=sum(s.response.num_tokens for s in graded),
            )
        )
    return found


def outcome_in(row: Mapping[str, Any]) -> PromptOutcome:
    """Of a prompt's row in the ledger: the same."""
    graded = graded_in(row)
    return PromptOutcome(
        prompt_id=row["prompt_id"],
        source=row.get("source", ""),
        responses=graded.responses,
        correct=row["correct"],
        tokens=graded.tokens,
    )


class PromptHistory:
    def __init__(
        self,
        *,
        decay: float = 0.95,
        pooled: Literal["run", "source"] = "run",
        half_life: float = 0.0,
        num_prompts: int = 0,
        prior_weight: float = 0.5,
    ) -> None:
        """`pooled`: over which prompts `PromptRecord.pooled_mean` goes. `half_life`: in responses for each of the
        `num_prompts` of the training set; 0: counts do not age between visits. `prior_weight`: of the pooled mean, in
        responses, in `success_frac`."""
        assert not half_life or num_prompts, "a half-life is relative to the number of prompts"
        self._decay = decay
        self._pooled = pooled
        self._half_life_responses = half_life * num_prompts
        self._prior_weight = prior_weight
        self._clock = 0.0  # half-lives that have passed
        self._seen = PromptTable()
        self._pools: dict[str, tuple[float, float]] = {}  # decayed correct and wrong, by source
        self._total_length = 0.0  # over all that were seen

    @property
    def num_bytes(self) -> int:
        return self._seen.num_bytes

    def learn(self, step: int, outcomes: Iterable[PromptOutcome]) -> None:
        """After a step's rollout: the outcomes of all replicas."""
        graded = sorted((o for o in outcomes if o.responses), key=lambda o: o.prompt_id)
        for outcome in graded:
            self._add(step, outcome)
        for name, (correct, wrong) in self._pools.items():
            self._pools[name] = (self._decay * correct, self._decay * wrong)
        for outcome in graded:
            name = self._pool_of(outcome.source)
            correct, wrong = self._pools.get(name, (0.0, 0.0))
            failed = outcome.responses - outcome.correct
            self._pools[name] = (correct + outcome.correct, wrong + failed)
        if self._half_life_responses:
            self._clock += sum(o.responses for o in graded) / self._half_life_responses

    def replay(self, ledger_rows: Iterable[Mapping[str, Any]]) -> None:
        """The ledger's rows up to the step a run is resumed from, of all replicas, by step."""
        rows = [r for r in ledger_rows if r.get("kind") == "prompt" and not r.get("abandoned")]
        for step, of_step in groupby(rows, key=lambda row: row["step"]):
            self.learn(step, map(outcome_in, of_step))

    def record(self, prompt: Prompt) -> PromptRecord:
        """As of now, with the decay of the visit that comes."""
        correct, wrong = self._pools.get(self._pool_of(prompt.source), (0.0, 0.0))
        mean = (_PRIOR[0] + correct) / (sum(_PRIOR) + correct + wrong)
        seen = self._seen.get(prompt.prompt_id)
        if seen is None:
            return replace(NEVER_SEEN, pooled_mean=mean)
        weight = self._decay * self._age(seen)
        return PromptRecord(
            correct=weight * seen.correct,
            wrong=weight * seen.wrong,
            last_step=seen.last_step,
            length_tokens=seen.length_tokens,
            pooled_mean=mean,
        )

    def is_known(self, prompt_id: str) -> bool:
        return prompt_id in self._seen

    def beta(self, prompt_id: str) -> tuple[float, float]:
        """Parameters of the pass rate's Beta distribution.

        >>> PromptHistory().beta("never seen")
        (1.0, 1.0)
        """
        return self._beta(self._seen.get(prompt_id))

    def success_frac(self, prompt: Prompt, num_responses: int, *, num_wrong: int = 0) -> float:
        """The expected chance that one of `num_responses` is correct after `num_wrong` wrong ones in this step. The
        prior is that of the advantages: the pooled pass rate, for `prior_weight` responses.

        Never seen, weight 0.5, pooled 0.5, one wrong: Beta(.25, 1.25), so one more is right with .25 / 1.5 = 1/6.
        """
        record = self.record(prompt)
        prior, weight = record.pooled_mean, self._prior_weight
        a = record.correct + weight * prior
        b = record.wrong + weight * (1 - prior) + num_wrong
        return 1 - chance_of_none(a, b, num_responses)

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
        a, b = self._beta(seen)
        drawn, stages = 0, 0.0
        for size in stage_sizes[num_done:]:
            stages += min(1.0, _CAUTION * chance_of_none(a, b, drawn))
            drawn += size
        return length * max(stages, 1.0)

    def _mean_length(self) -> float:
        if not self._seen:
            return 1.0
        return self._total_length / len(self._seen)

    def _pool_of(self, source: str) -> str:
        return source if self._pooled == "source" else ""

    def _beta(self, seen: TableRow | None) -> tuple[float, float]:
        if seen is None:
            return _PRIOR
        weight = self._age(seen)
        return _PRIOR[0] + weight * seen.correct, _PRIOR[1] + weight * seen.wrong

    def _age(self, seen: TableRow) -> float:
        return 0.5 ** (self._clock - seen.clock)

    def _add(self, step: int, outcome: PromptOutcome) -> None:
        seen = self._seen.get(outcome.prompt_id) or TableRow(0.0, 0.0, 0, 0.0, self._clock)
        weight = self._decay * self._age(seen)
        length = outcome.tokens / outcome.responses
        self._total_length += length - seen.length_tokens
        new = TableRow(
            correct=weight * seen.correct + outcome.correct,
            wrong=weight * seen.wrong + outcome.responses - outcome.correct,
            last_step=step,
            length_tokens=length,
            clock=self._clock,
        )
        self._seen.put(outcome.prompt_id, new)


def chance_of_none(a: float, b: float, num_responses: int) -> float:
    """The expected chance that none is correct, where the pass rate is Beta(a, b): prod_{i < k} (b + i) / (a + b + i).

    >>> chance_of_none(1, 1, 4)  # 1/2 * 2/3 * 3/4 * 4/5
    0.2
    """
    chance = 1.0
    for i in range(num_responses):
        chance *= (b + i) / (a + b + i)
    return round(chance, 12)
