"""`Lessons`: what a step has shown of its prompts becomes history, on every replica the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from megatron_ar3po.algorithm.history import PromptHistory, outcomes_of
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.types import CollectedStep


class Learner(Protocol):
    def learn(self, step: int, outcomes: Iterable[PromptOutcome]) -> None:
        """After a step's rollout: the outcomes of all replicas."""
        ...


class Lessons:
    """Leaders only."""

    def __init__(
        self,
        history: PromptHistory | None = None,
        gather_over_replicas: Callable[[Any], list[Any]] = lambda mine: [mine],
        *,
        others: Sequence[Learner] = (),
    ) -> None:
        """`others` learn the same as the history."""
        self._learners: list[Learner] = [history or PromptHistory(), *others]
        self._gather = gather_over_replicas
        self._outcomes: list[PromptOutcome] = []

    def note(self, collected: CollectedStep) -> None:
        """Of this replica; discarded groups teach as the others do."""
        self._outcomes = outcomes_of(collected.graded)

    def learn(self, step: int) -> None:
        """Collective over leaders, once every one of them has collected its part of the step."""
        outcomes = [o for part in self._gather(self._outcomes) for o in part]
        for learner in self._learners:
            learner.learn(step, outcomes)
        self._outcomes = []
