"""Benchmarks asked of a server that runs already: texts come back, and are graded as texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from megatron_ar3po.async_tasks import gather
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.suite import SuiteSet
from megatron_ar3po.evaluation.items import Item
from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.pool import VerifierPoolError
from megatron_ar3po.rewards.source_graders import SourceGraders
from megatron_ar3po.rollout.draws import Draw
from megatron_ar3po.servers.completions_client import (
    Completion,
    CompletionsClient,
    Decode,
    find_kind,
)
from megatron_ar3po.types import VerdictStatus

_AT_ONCE = 64  # requests, where servers.max_concurrent_requests leaves it open: how large the server is is not known


def ask_server(
    url: str,
    served_model: str,
    decode: Decode,
    sets: Sequence[SuiteSet],
    asked: Sequence[Sequence[Draw]],
    seen: Callable[[Draw, Item], None],
) -> None:
    """`asked`: of each set, any of its draws; `seen` is told of each answer as it comes."""
    servers = sets[0].config.servers
    kind = find_kind(url, served_model)

    async def ask_all() -> None:
        client = CompletionsClient(
            url,
            kind,
            decode,
            timeout_s=servers.request_timeout_s,
            max_retries=servers.max_retries,
        )
        slots = asyncio.Semaphore(servers.max_concurrent_requests or _AT_ONCE)

        async def ask(found: SuiteSet, graders: SourceGraders, draw: Draw) -> None:
            extra = tuple(found.config.rollout.extra_stop_token_ids)
            async with slots:
                completion = await client.complete(
                    draw.prompt.token_ids, draw.sampling, draw.seed, extra
                )
            seen(draw, await _grade(completion, draw, found.config.rewards, graders))

        with ExitStack() as stack:
            graders = [stack.enter_context(SourceGraders(s.config.rewards)) for s in sets]
            try:
                await gather(
                    ask(found, own, draw)
                    for found, own, draws in zip(sets, graders, asked, strict=True)
                    for draw in draws
                )
            finally:
                await client.close()

    asyncio.run(ask_all())


async def _grade(
    completion: Completion, draw: Draw, rewards: RewardsConfig, graders: SourceGraders
) -> Item:
    """By the rules of a run's verifier."""
    if completion.finish_reason != "stop" and rewards.truncated == "incorrect":
        reason = f"ended by 'length' after {completion.tokens} tokens"
        return _item_of(completion, "truncated", None, reason)
    prompt = draw.prompt
    try:
        grade = await asyncio.wrap_future(
            graders.submit(
                completion.text,
                prompt.ground_truth,
                source=prompt.source,
                metadata=prompt.metadata,
            )
        )
    except VerifierPoolError as error:
        grade = Grade(status="error", reason=str(error))
    return _item_of(completion, grade.status, grade.extracted, grade.reason)


def _item_of(
    completion: Completion, status: VerdictStatus, extracted: str | None, reason: str
) -> Item:
    return Item(
        text=completion.text,
        tokens=completion.tokens,
        finish_reason=completion.finish_reason,
        status=status,
        extracted=extracted,
        reason=reason,
    )
