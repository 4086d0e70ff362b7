"""A `Verifier` that follows a rule given by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from megatron_ar3po.types import Prompt, Response, Verdict


@dataclass
class FakeVerifier:
    is_correct: Callable[[Prompt, Response], bool] = lambda prompt, response: False
    fails: Callable[[Prompt, Response], bool] = lambda prompt, response: False
    delay_s: Callable[[Response], float] = lambda response: 0.0
    verified: list[str] = field(default_factory=list)  # response ids in the order of their verdicts
    version: str = "fake-1"
    is_closed: bool = False

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        await asyncio.sleep(self.delay_s(response))
        self.verified.append(response.response_id)
        if self.fails(prompt, response):
            return Verdict(reward=None, status="error", reason="no such luck")
        if self.is_correct(prompt, response):
            return Verdict(reward=1.0, status="correct")
        return Verdict(reward=0.0, status="incorrect")

    def close(self) -> None:
        self.is_closed = True
