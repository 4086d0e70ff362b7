"""`Lender`: a step's unsolved groups borrow from the store. Leader only, between rollout and training.

Where the store wants to know how likely its answers are now (`reuse.pick=likely`, `reuse.min_mean_logprob`), the
servers are asked about the shortlists of all groups at once, before anything is lent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from megatron_ar3po.algorithm.response_reuse import needs_a_loan, with_borrowed
from megatron_ar3po.interfaces import ResponseScorer, ReuseShard
from megatron_ar3po.types import Prompt, Response, ResponseGroup


class Lender:
    """`scorer` is None where no server is at hand."""

    def __init__(
        self, store: ReuseShard, scorer: ResponseScorer | None = None, *, run_seed: int
    ) -> None:
        self._store = store
        self._scorer = scorer
        self._run_seed = run_seed
        self._counts: Counter[str] = Counter()

    def lend(
        self, groups: Sequence[ResponseGroup], *, step: int, policy_version: int
    ) -> list[ResponseGroup]:
        """The groups in their order; an unsolved one has borrowed where the store had an answer for it."""
        unsolved = [group for group in groups if needs_a_loan(group)]
        scores = self._scores(unsolved, step=step, policy_version=policy_version)
        self._counts["unsolved_groups"] += len(unsolved)
        return [
            self._lent(group, scores, step) if needs_a_loan(group) else group for group in groups
        ]

    def take_counts(self) -> Mapping[str, float]:
        """The store's and its own, since the last call."""
        counts, self._counts = self._counts, Counter()
        return {**{name: float(n) for name, n in counts.items()}, **self._store.take_counts()}

    def _lent(self, group: ResponseGroup, scores: Mapping[str, float], step: int) -> ResponseGroup:
        borrowed = self._store.borrow(
            group.prompt.prompt_id, step=step, position=group.position, mean_logprobs=scores
        )
        return with_borrowed(group, borrowed, seed=self._run_seed, step=step)

    def _scores(
        self, unsolved: Sequence[ResponseGroup], *, step: int, policy_version: int
    ) -> dict[str, float]:
        """By response id. Two groups of one prompt share what is known of its answers."""
        asked: dict[str, tuple[Prompt, Response]] = {}
        for group in unsolved:
            for scored in self._store.shortlist(
                group.prompt.prompt_id, step=step, position=group.position
            ):
                asked[scored.response.response_id] = (group.prompt, scored.response)
        if not asked:
            return {}
        assert self._scorer is not None, "the store wants scores, and there is nobody to ask"
        answers = self._scorer.mean_logprobs(
            list(asked.values()), step=step, policy_version=policy_version
        )
        self._counts["scored_responses"] += len(asked)
        self._counts["scored_tokens"] += sum(r.num_tokens for _, r in asked.values())
        return dict(zip(asked, answers, strict=True))
