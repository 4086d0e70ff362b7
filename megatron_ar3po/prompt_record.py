"""What a prompt has shown before a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """Counts of graded responses, decayed at each visit. `pooled_mean`: the pass rate of the prompts like it, as of the
    same step; 1/2 where nothing was seen of any."""

    correct: float = 0.0
    wrong: float = 0.0
    last_step: int = 0  # of the last visit; 0: never seen
    length_tokens: float = 0.0  # of the last visit's responses, on average
    pooled_mean: float = 0.5


NEVER_SEEN = PromptRecord()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOutcome:
    """What one step adds: of one prompt, its graded responses alone."""

    prompt_id: str
    source: str
    responses: int
    correct: int
    tokens: int


class StageOutcome(NamedTuple):
    """Of one prompt's stage in a step: its graded responses, cancelled ones left out, and how many are correct."""

    responses: int
    correct: int
