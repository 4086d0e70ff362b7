"""The lease on a server that someone else started: one trainer at a time, and what the one before left behind.
`platform.server_lease` is the other end, in servers that were started through `platform.sglang_launch`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from megatron_ar3po.http_client import HeldConnection, HttpError, hold, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.server_lease import ROUTE

_CALL_LIMIT_S = 10.0
_ANSWER_LIMIT_S = 60.0
_HOLDER_LIMIT_S = 5.0  # for the server to see that its last client's connection has ended
_POLL_INTERVAL_S = 0.1

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerState:
    """As the server tells it."""

    holder: str  # who has the lease; empty: nobody
    last_holder: str
    is_paused: bool
    has_session: bool
    asleep: list[str]  # tags of the memory that is released
    running: list[str]  # calls that change weights or memory and have not ended yet

    @property
    def is_left_behind(self) -> bool:
        """Its last client ended in an update, or while the server slept."""
        return self.is_paused or self.has_session or bool(self.asleep)

    @property
    def is_as_a_run_ends(self) -> bool:
        """A run leaves its servers as its last checkpoint has them: without a cache, and otherwise awake."""
        return self.asleep == ["kv_cache"] and not (self.is_paused or self.has_session)


class Lease:
    def __init__(self, url: str, connection: HeldConnection, *, answer_limit_s: float) -> None:
        self._url, self._connection = url, connection
        self._answer_limit_s = answer_limit_s

    def settled_state(self, *, limit_s: float) -> ServerState:
        """Once the calls of a client that died have come to their end. `limit_s`: as long as a living one waits for
        them (weight_sync.timeout_s)."""
        deadline = time.monotonic() + limit_s
        while (state := read_state(self._url, answer_limit_s=self._answer_limit_s)).running:
            if time.monotonic() > deadline:
                raise RolloutEngineError(
                    f"server {self._url} has been in {', '.join(state.running)} for {limit_s:g} s "
                    f"(weight_sync.timeout_s), as its last client ({state.last_holder}) left it; it waits for what "
                    "never comes. Start it anew."
                )
            time.sleep(_POLL_INTERVAL_S)
        return state

    def release(self) -> None:
        self._connection.close()


def take_lease(
    url: str,
    client: str,
    *,
    limit_s: float = _HOLDER_LIMIT_S,
    answer_limit_s: float = _ANSWER_LIMIT_S,
) -> Lease | None:
    """None for a server that lends none: it was not started by this package. ValueError while another client holds it,
    after `limit_s`; RolloutEngineError when it does not answer for `answer_limit_s`. `client`: who we are, in the words
    of the one who is refused."""
    deadline = None  # from the first refusal on: a call of ours that was not answered may hold it a little longer
    while True:
        connection = _until_answered(url, lambda: _ask_for(url, client), answer_limit_s)
        holder = _holder_in(connection.line)
        if connection.status == 200 and holder is not None:
            return Lease(url, connection, answer_limit_s=answer_limit_s)
        connection.close()
        if connection.status != 409 or holder is None:
            return None
        deadline = deadline or time.monotonic() + limit_s
        if time.monotonic() > deadline:
            raise ValueError(
                f"servers.urls names {url}, which {holder} is using; one run at a time samples from a server. Wait "
                "for its end, end it, or start another server."
            )
        time.sleep(_POLL_INTERVAL_S)


def _ask_for(url: str, client: str) -> HeldConnection:
    connection = hold("POST", url + ROUTE, json={"client": client}, timeout_s=_CALL_LIMIT_S)
    if connection.status >= 500:  # that says nothing of whether it lends one
        connection.close()
        raise HttpError(f"POST {url}{ROUTE} was answered with HTTP {connection.status}")
    return connection


def _until_answered(url: str, call: Callable[[], _Answer], limit_s: float) -> _Answer:
    """A server whose event loop is busy for a while, or that loses one connection, is asked again."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return call()
        except HttpError as error:
            if time.monotonic() > deadline:
                raise RolloutEngineError(
                    f"server {url} does not say who uses it, for {limit_s:g} s now: {error}. It hangs or has ended; "
                    "look into its log, or start it anew."
                ) from error
        time.sleep(_POLL_INTERVAL_S)


def _holder_in(line: bytes) -> str | None:
    """None where a server that lends no lease said something."""
    try:
        return str(json.loads(line)["holder"])
    except (ValueError, KeyError, TypeError):
        return None


def read_state(url: str, *, answer_limit_s: float = _ANSWER_LIMIT_S) -> ServerState:
    """RolloutEngineError when the server does not answer for `answer_limit_s`."""
    return _until_answered(url, lambda: _state_of(url), answer_limit_s)


def _state_of(url: str) -> ServerState:
    response = request("GET", url + ROUTE, timeout_s=_CALL_LIMIT_S)
    if response.status != 200:
        raise HttpError(f"GET {url}{ROUTE} was answered with HTTP {response.status}")
    return ServerState(**response.json())
