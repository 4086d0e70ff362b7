"""`ServerScorer`: how likely stored answers are to the current policy, asked of the servers. Leader only.

It runs between a step's rollout and its training, while the servers are awake and hold the weights of that step. What
it costs is a class of its own in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.types import Prompt, Response, Scoring, ScoringRequest


class Scorer(Protocol):
    """The controller, as this module sees it."""

    def score(
        self, requests: Sequence[ScoringRequest], *, policy_version: int
    ) -> list[Scoring]: ...


class ServerScorer:
    """A `ResponseScorer`."""

    def __init__(self, controller: Scorer, ledger: Ledger) -> None:
        self._controller = controller
        self._ledger = ledger

    def mean_logprobs(
        self, asked: Sequence[tuple[Prompt, Response]], *, step: int, policy_version: int
    ) -> list[float]:
        if not asked:
            return []
        requests = [
            ScoringRequest(
                request_id=f"score.s{step}.{prompt.prompt_id[:16]}.{response.response_id}",
                prompt_token_ids=prompt.token_ids,
                response_token_ids=tuple(response.token_ids.tolist()),
            )
            for prompt, response in asked
        ]
        scorings = self._controller.score(requests, policy_version=policy_version)
        self._ledger.record_scoring(
            scorings,
            prompt_tokens=sum(len(prompt.token_ids) for prompt, _ in asked),
            step=step,
            policy_version=policy_version,
        )
        return [mean_of(scoring) for scoring in scorings]


def mean_of(scoring: Scoring) -> float:
    """-inf where the prompt left no room to read a single token of the answer: nothing speaks for it."""
    return float(scoring.logprobs.mean()) if len(scoring.logprobs) else float("-inf")
