"""`Lessons`: what a step has shown of its prompts becomes history, on every replica the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megatron_ar3po.algorithm.history import PromptHistory, outcomes_of
from megatron_ar3po.prompt_record import PromptOutcome
from megatron_ar3po.types import CollectedStep


class Lessons:
    """Leaders only."""

    def __init__(
        self,
        history: PromptHistory | None = None,
        gather_over_replicas: Callable[[Any], list[Any]] = lambda mine: [mine],
    ) -> None:
        self._history = history or PromptHistory()
        self._gather = gather_over_replicas
        self._outcomes: list[PromptOutcome] = []

    def note(self, collected: CollectedStep) -> None:
        """Of this replica; discarded groups teach as the others do."""
        self._outcomes = outcomes_of(collected.graded)

    def learn(self, step: int) -> None:
        """Collective over leaders, once every one of them has collected its part of the step."""
        self._history.learn(step, [o for part in self._gather(self._outcomes) for o in part])
        self._outcomes = []
