"""What the processes of the servers were asked and answered, as one client saw it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

Process = tuple[str, int]  # one process of a server: its name, and how often it was restarted

NOBODY: Process = ("(lost on the way)", 0)  # behind a router: it may have been anyone's


class Server(Protocol):
    """What the client needs of a server process."""

    name: str

    @property
    def url(self) -> str: ...

    @property
    def num_restarts(self) -> int: ...

    def is_running(self) -> bool: ...

    def last_words(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUsage:
    """What one process of a server was asked and answered, as this client saw it. The first four are what the server
    counts too; `aborted_*` and `unused_*` are the parts of them that became no response."""

    requests: int = 0  # answered, whatever became of the answer
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    aborted_requests: int = 0  # stopped while they ran, by us or by the server
    aborted_generated_tokens: int = 0
    unused_requests: int = 0  # answered in a way that could not be used, and drawn again
    unused_generated_tokens: int = 0
    queue_aborts: int = 0  # stopped before they began: the server counts them nowhere
    lost_requests: int = 0  # sent, no readable answer: counted there in whole, in part or not
    lost_prompt_tokens: int = 0  # the most that the lost ones can have come to
    lost_generated_tokens: int = 0

    def __add__(self, other: ServerUsage) -> ServerUsage:
        return ServerUsage(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        )


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
