"""Who uses this server, and in which state it is: kept in the server's own process, for a trainer that comes after one
that died.

    POST /ar3po/lease {"client": NAME}   200 and one line of JSON, the state: NAME holds the server until the connection
                                         ends; 409 and the same line while another client holds it
    GET  /ar3po/lease                    the state alone

The lease is the connection. A process that dies closes it, whatever ended it; one that is stopped, or sleeps with its
machine, keeps it. The loss of the client's whole node is noticed late: when the system gives up a connection over which
nothing that is sent is acknowledged. A server that a trainer started for itself has an owner, to whom it is lent from
its start to its end.

The state is read off the calls that pass by. What SGLang takes twice counts from the call on, so that none is missed
when its client dies in it; what it does not take twice (memory) counts when it has succeeded.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

ROUTE = "/ar3po/lease"
_PULSE_S = 30.0  # a byte, so that there is something to acknowledge

# What SGLang gives back when a call names no tags.
_ALL_TAGS = ("cuda_graph", "kv_cache", "weights")
_CALLS = {
    *("/pause_generation", "/continue_generation", "/begin_weight_update", "/end_weight_update"),
    *("/release_memory_occupation", "/resume_memory_occupation", "/update_weights_from_disk"),
    *("/update_weights_from_tensor", "/update_weights_from_distributed"),
    *("/init_weights_update_group", "/destroy_weights_update_group"),
}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ServerLease:
    """ASGI middleware."""

    def __init__(self, app: Any, *, owner: str = "", pulse_s: float = _PULSE_S) -> None:
        """`owner`: who holds it for good; empty: it is for whoever asks. `pulse_s`: how often a byte goes to the
        holder."""
        self._app, self._pulse_s = app, pulse_s
        self._holder = owner
        self._last_holder = ""
        self._is_paused = False
        self._has_session = False
        self._asleep: set[str] = set()
        self._running: Counter[str] = Counter()

    def state(self) -> dict[str, Any]:
        return {
            "holder": self._holder,
            "last_holder": self._last_holder,
            "is_paused": self._is_paused,
            "has_session": self._has_session,
            "asleep": sorted(self._asleep),
            "running": sorted(self._running),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if scope["type"] != "http" or path not in {*_CALLS, ROUTE}:
            await self._app(scope, receive, send)
        elif path != ROUTE:
            await self._watch(path, scope, receive, send)
        elif scope["method"] == "POST":
            await self._lend(receive, send)
        else:
            await self._respond(200, send)
            await send({"type": "http.response.body", "body": b""})

    async def _lend(self, receive: Receive, send: Send) -> None:
        client = json.loads(await _read(receive))["client"]
        if self._holder:
            await self._respond(409, send)
            await send({"type": "http.response.body", "body": b""})
            return
        self._holder = client
        try:
            await self._respond(200, send)
            while not await _has_ended(receive, self._pulse_s):
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        finally:
            self._holder, self._last_holder = "", client

    async def _respond(self, status: int, send: Send) -> None:
        """The state, and more to come."""
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        line = json.dumps(self.state()).encode() + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})

    async def _watch(self, path: str, scope: Any, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        is_given = False
        status = 0

        async def receive_again() -> Any:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_on(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._note_begun(path)
        self._running[path] += 1
        try:
            await self._app(scope, receive_again, send_on)
        finally:
            self._running[path] -= 1
            self._running += Counter()  # drops what is at zero
        if status == 200:
            self._note_done(path, body)

    def _note_begun(self, path: str) -> None:
        if path == "/pause_generation":
            self._is_paused = True
        elif path == "/begin_weight_update":
            self._has_session = True

    def _note_done(self, path: str, body: bytes) -> None:
        if path == "/continue_generation":
            self._is_paused = False
        elif path == "/end_weight_update":
            self._has_session = False
        elif path == "/release_memory_occupation":
            self._asleep |= _tags_of(body)
        elif path == "/resume_memory_occupation":
            self._asleep -= _tags_of(body)


def _tags_of(body: bytes) -> set[str]:
    """
    >>> _tags_of(b'{"tags": ["weights"]}')
    {'weights'}
    """
    return set(json.loads(body or b"{}").get("tags") or _ALL_TAGS)


async def _has_ended(receive: Receive, within_s: float) -> bool:
    """Whether the connection did."""
    try:
        message = await asyncio.wait_for(receive(), within_s)
    except (TimeoutError, asyncio.TimeoutError):
        return False
    return message["type"] == "http.disconnect"


async def _read(receive: Receive) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body
