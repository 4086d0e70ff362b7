"""A `RolloutEngine` without a server: an answer is a function of its request, and what was asked is written down."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from megatron_ar3po.types import (
    FinishReason,
    Generation,
    GenerationRequest,
    Scoring,
    ScoringRequest,
)

TOKEN_S = 0.01
ABORTED_TOKENS = 4


def answer_from_seed(request: GenerationRequest) -> list[int]:
    """Two tokens that depend on prompt and seed alone, as those of a server that honours seeds."""
    mixed = zlib.crc32(repr((request.prompt_token_ids, request.seed)).encode())
    return [10 + mixed % 50, 10 + mixed // 50 % 50]


@dataclass
class FakeRolloutEngine:
    policy_version: int = 0
    answer: Callable[[GenerationRequest], list[int]] = answer_from_seed
    delay_s: Callable[[GenerationRequest], float] = lambda request: 0.0
    finish_reason: Callable[[GenerationRequest], FinishReason] = lambda request: "stop"
    requests: list[GenerationRequest] = field(default_factory=list)
    logprob: Callable[[int], float] = lambda token: -0.5  # of a token that is scored
    scored: list[ScoringRequest] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    num_running: int = 0
    others_running: int | None = None  # by other clients of its servers
    max_running: int = 0
    is_closed: bool = False

    async def generate(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        try:
            await asyncio.sleep(self.delay_s(request))
        finally:
            self.num_running -= 1
        self.finished.append(request.request_id)
        token_ids = np.asarray(self.answer(request), dtype=np.int32)
        return Generation(
            token_ids=token_ids,
            logprobs=np.full(len(token_ids), -0.5, dtype=np.float32),
            finish_reason=self.finish_reason(request),
            policy_version=self.policy_version,
            server="fake",
        )

    async def score(self, request: ScoringRequest) -> Scoring:
        self.scored.append(request)
        logprobs = [self.logprob(token) for token in request.response_token_ids]
        return Scoring(
            logprobs=np.asarray(logprobs, dtype=np.float32),
            policy_version=self.policy_version,
            server="fake",
        )

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def num_in_flight_of_others(self) -> int | None:
        return self.others_running

    async def repair_all(self) -> None:
        return None

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class AbortableEngine:
    """Index i of a stage has `lengths[i]` tokens, one every 10 ms; None goes on until it is aborted, and then has
    four. The first request for one of `server_aborts` is aborted by the server after two."""

    lengths: tuple[int | None, ...]
    server_aborts: tuple[int, ...] = ()
    sent: list[str] = field(default_factory=list)
    aborted: dict[str, asyncio.Event] = field(default_factory=dict)

    async def generate(self, request: GenerationRequest) -> Generation:
        self.sent.append(request.request_id)
        stop = self.aborted.setdefault(request.request_id, asyncio.Event())
        index = int(request.request_id.split(".")[3])
        length, reason = self.lengths[index], "stop"
        if index in self.server_aborts and not request.request_id.endswith(".again1"):
            await asyncio.sleep(2 * TOKEN_S)
            return self.answer(2, "abort")
        try:
            await asyncio.wait_for(stop.wait(), None if length is None else length * TOKEN_S)
            length, reason = ABORTED_TOKENS, "abort"
        except asyncio.TimeoutError:
            assert length is not None
        return self.answer(length, reason)

    def answer(self, length: int, reason: FinishReason) -> Generation:
        return Generation(
            token_ids=np.full(length, 5, dtype=np.int32),
            logprobs=np.full(length, -0.5, dtype=np.float32),
            finish_reason=reason,
            policy_version=0,
            server="fake",
        )

    async def abort(self, request_id: str) -> None:
        self.aborted[request_id].set()

    async def repair_all(self) -> None:
        return None

    async def close(self) -> None:
        return None
