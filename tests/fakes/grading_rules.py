"""`GradingRules` that a test makes up: answers are equal where they are spelled alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ar3po.types import Prompt


@dataclass
class FakeGradingRules:
    versions: Mapping[str, str] | None = None  # by source; None: "v1" for all
    options: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda metadata: {}
    unusable: Callable[[Prompt], str | None] = lambda prompt: None
    equal: Callable[[str, str], bool] = lambda one, other: False
    compared: list[tuple[str, str]] = field(default_factory=list)

    def version_of(self, source: str) -> str | None:
        return "v1" if self.versions is None else self.versions.get(source)

    def options_of(self, source: str, metadata: Mapping[str, Any]) -> Mapping[str, str]:
        return self.options(metadata)

    def why_unusable(self, prompts: Sequence[Prompt]) -> list[str | None]:
        return [self.unusable(prompt) for prompt in prompts]

    def why_different(self, pairs: Sequence[tuple[Prompt, Prompt]]) -> list[str | None]:
        answers = [(one.ground_truth, other.ground_truth) for one, other in pairs]
        self.compared += answers
        return [None if self.equal(*pair) else "unlike" for pair in answers]
