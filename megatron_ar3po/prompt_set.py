"""`PromptSet`: prompts that an evaluation samples and grades alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ar3po.interfaces import Verifier
from megatron_ar3po.types import Prompt, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    name: str  # empty: the held-out prompts of evaluation.path
    prompts: Sequence[Prompt]
    samples: int  # of each prompt
    sampling: SamplingParams
    verifier: Verifier | None = None  # None: the run's own
