"""One answer of a server -> what it adds to the account of its process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from megatron_ar3po.usage import Process, ServerUsage


class Server(Protocol):
    """What the client needs of a server process."""

    name: str

    @property
    def url(self) -> str: ...

    @property
    def num_restarts(self) -> int: ...

    def is_running(self) -> bool: ...

    def log_tail(self) -> str: ...


def process_of(server: Server) -> Process:
    return server.name, server.num_restarts


def stated_process(header: str) -> Process | None:
    """
    >>> stated_process("dp0.s1/2")
    ('dp0.s1', 2)
    """
    name, _, restarts = header.rpartition("/")
    return (name, int(restarts)) if name and restarts.isdigit() else None


def usage_of(meta: dict[str, Any]) -> ServerUsage:
    """Of one answer. A request that was aborted in the server's queue comes back without a count of its prompt."""
    reason = meta.get("finish_reason")
    is_abort = isinstance(reason, dict) and reason.get("type") == "abort"
    if is_abort and "prompt_tokens" not in meta:
        return ServerUsage(queue_aborts=1)
    generated = int(meta.get("completion_tokens", 0))
    return ServerUsage(
        requests=1,
        prompt_tokens=int(meta.get("prompt_tokens", 0)),
        cached_prompt_tokens=int(meta.get("cached_tokens", 0)),
        generated_tokens=generated,
        aborted_requests=int(is_abort),
        aborted_generated_tokens=generated if is_abort else 0,
    )


def unused(seen: ServerUsage) -> ServerUsage:
    """The same answer, thrown away. What was aborted became no response either and is counted as that."""
    if seen.aborted_requests or not seen.requests:
        return seen
    return replace(seen, unused_requests=1, unused_generated_tokens=seen.generated_tokens)


def lost_usage(*, prompt_tokens: int, generated_tokens: int) -> ServerUsage:
    return ServerUsage(
        lost_requests=1,
        lost_prompt_tokens=prompt_tokens,
        lost_generated_tokens=generated_tokens,
    )
