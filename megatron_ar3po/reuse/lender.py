"""`Lender`: a step's correct responses go into the store, and its unsolved groups borrow from it. Leader only, between
rollout and training.

Where the store wants to know how likely its answers are now (`reuse.pick=likely`, `reuse.min_mean_logprob`), the
servers are asked about the shortlists of all groups at once, before anything is lent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from megatron_ar3po.algorithm.response_reuse import (
    needs_a_loan,
    responses_worth_keeping,
    with_borrowed,
)
from megatron_ar3po.interfaces import ResponseScorer, ReuseShard
from megatron_ar3po.observability.step_metrics import reuse_records
from megatron_ar3po.observability.timeline import Span, no_span
from megatron_ar3po.records import Records, Sum
from megatron_ar3po.types import Prompt, Response, ResponseGroup

_Scores = Mapping[str, Mapping[str, float]]  # by prompt id, then by response id


class Lent(NamedTuple):
    groups: list[ResponseGroup]
    records: Records


class Lender:
    """`scorer` is None where no server is at hand."""

    def __init__(
        self,
        store: ReuseShard,
        scorer: ResponseScorer | None = None,
        *,
        run_seed: int,
        span: Span = no_span,
    ) -> None:
        self._store = store
        self._scorer = scorer
        self._run_seed = run_seed
        self._span = span

    def deposit(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        """Their correct responses, for later steps; called in every step, with none to keep too."""
        prompts = {group.prompt.prompt_id: group.prompt for group in groups}
        with self._span("deposit"):
            self._store.deposit(responses_worth_keeping(groups), prompts=prompts, step=step)

    def lend(self, groups: Sequence[ResponseGroup], *, step: int, policy_version: int) -> Lent:
        """The groups in their order; an unsolved one has borrowed where the store had an answer for it."""
        with self._span("lend"):
            return self._lend(groups, step=step, policy_version=policy_version)

    def _lend(self, groups: Sequence[ResponseGroup], *, step: int, policy_version: int) -> Lent:
        records = Records()
        unsolved = [group for group in groups if needs_a_loan(group)]
        records.add("reuse/unsolved_groups", Sum(len(unsolved)))
        scores = self._score_shortlists(unsolved, records, step=step, policy_version=policy_version)
        lent = [
            self._lend_to(group, scores, step) if needs_a_loan(group) else group for group in groups
        ]
        records.add_all(reuse_records(groups, lent, step=step))
        return Lent(lent, records)

    def _lend_to(self, group: ResponseGroup, scores: _Scores, step: int) -> ResponseGroup:
        prompt_id = group.prompt.prompt_id
        borrowed = self._store.borrow(
            prompt_id,
            step=step,
            position=group.position,
            mean_logprobs=scores.get(prompt_id, {}),
        )
        return with_borrowed(group, borrowed, seed=self._run_seed, step=step)

    def _score_shortlists(
        self,
        unsolved: Sequence[ResponseGroup],
        records: Records,
        *,
        step: int,
        policy_version: int,
    ) -> _Scores:
        """Two groups of one prompt share what is known of its answers."""
        asked: dict[tuple[str, str], tuple[Prompt, Response]] = {}
        for group in unsolved:
            for scored in self._store.shortlist(
                group.prompt.prompt_id, step=step, position=group.position
            ):
                key = (group.prompt.prompt_id, scored.response.response_id)
                asked[key] = (group.prompt, scored.response)
        if not asked:
            return {}
        assert self._scorer is not None, "the store wants scores, and there is nobody to ask"
        answers = self._scorer.mean_logprobs(
            list(asked.values()), step=step, policy_version=policy_version
        )
        records.add("reuse/scored_responses", Sum(len(asked)))
        records.add("reuse/scored_tokens", Sum(sum(r.num_tokens for _, r in asked.values())))
        scores: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for (prompt_id, response_id), score in zip(asked, answers, strict=True):
            scores[prompt_id][response_id] = score
        return scores
