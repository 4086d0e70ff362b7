"""What the processes of the servers were asked and answered: counted here by each client, and there by themselves.

`servers/` keeps the accounts and reads the servers' counters; `rollout/ledger.py` holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Process = tuple[str, int]  # one process of a server: its name, and how often it was restarted

NOBODY: Process = ("(lost on the way)", 0)  # behind a router: it may have been anyone's


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Requests for one response that a server has counted and that brought none: each was sent again."""

    aborted: int = 0  # stopped by the server of its own accord
    aborted_tokens: int = 0  # what they had generated until then
    unusable: int = 0  # answered in a way that could not be read, or not be trusted
    unusable_tokens: int = 0

    @property
    def requests(self) -> int:
        return self.aborted + self.unusable

    @property
    def tokens(self) -> int:
        return self.aborted_tokens + self.unusable_tokens

    def __add__(self, other: Retries) -> Retries:
        return Retries(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__slots__}
        )


NO_RETRIES = Retries()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCounters:
    """What a process of a server says it has finished since it started. `retracted_*`: pushed out of a full KV cache
    and computed again later; that work is done twice and counted once in the other figures."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    abort_calls: int = 0
    retracted_requests: int = 0
    retracted_prompt_tokens: int = 0
    retracted_generated_tokens: int = 0

    def __sub__(self, before: ServerCounters) -> ServerCounters:
        return ServerCounters(
            **{name: getattr(self, name) - getattr(before, name) for name in self.__slots__}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBook:
    """One process of one server: what was counted here and there. `theirs` is None once it is dead."""

    server: str
    restarts: int
    ours: ServerUsage
    theirs: ServerCounters | None


Usage = Mapping[Process, ServerUsage]  # of one client


class LedgerError(RuntimeError):
    """The books do not balance."""
