"""HTTP for the whole package: the only module that imports an HTTP client library, which is aiohttp.

Promises:
- every call has a time limit, for its connection and for the whole of it;
- the environment is not read: no proxy, no .netrc. Servers are reached directly or not at all;
- whatever goes wrong on the way is an `HttpError` that names the call, what failed and how long was waited. A status
  is no error: the caller knows which ones it can use.

- which calls are under way, and since when their server has answered none, is known to any thread (`calls_under_way`).

`HttpClient` is for many calls at once in one event loop, over connections that stay open; `request` is one call over a
connection of its own, from any thread, also from inside a running loop. `hold` is a call that the server does not end.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from megatron_ar3po.platform.host_limits import connection_room

_DATA, _EVENT_END = b"data: ", b"\n\n"  # of a server-sent event
_CONNECT_LIMIT_S = 30.0  # a server that is there accepts at once, however busy it is


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """ValueError where it is none."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class CallsUnderWay:
    """To one server. `quiet_s`: since it last answered, or since the oldest of these calls began."""

    server: str  # its address, as in http://127.0.0.1:3000
    route: str  # of the oldest
    num: int
    quiet_s: float


class _Calls:
    """What this process asks just now. Dictionaries change in one step each, so a thread that looks needs no lock."""

    def __init__(self) -> None:
        self._begun: dict[object, tuple[str, str, float]] = {}
        self._answered: dict[str, float] = {}

    @contextmanager
    def call(self, url: str) -> Iterator[None]:
        """One that raises has brought no answer."""
        split, key = urlsplit(url), object()
        server = f"{split.scheme}://{split.netloc}"
        self._begun[key] = (server, split.path, time.monotonic())
        try:
            yield
            self._answered[server] = time.monotonic()
        finally:
            del self._begun[key]

    def look(self) -> list[CallsUnderWay]:
        now, found = time.monotonic(), dict[str, list[tuple[float, str]]]()
        for server, route, began in list(self._begun.values()):
            found.setdefault(server, []).append((began, route))
        return [
            CallsUnderWay(
                server,
                min(calls)[1],
                len(calls),
                now - max(min(calls)[0], self._answered.get(server, 0.0)),
            )
            for server, calls in found.items()
        ]


_calls = _Calls()


def calls_under_way() -> list[CallsUnderWay]:
    """Of this process, by server; what `hold` keeps open is none."""
    return _calls.look()


class HttpStream:
    """A response whose head has come. What is wrong with the rest of it is raised where it is read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self._response = response

    async def read(self) -> bytes:
        return await self._response.read()

    async def events(self) -> AsyncIterator[bytes]:
        """The data of server-sent events of one line each, as they come; one that is cut off is none."""
        held, looked_at = bytearray(), 0
        async for piece in self._response.content.iter_any():
            held += piece
            while (end := held.find(_EVENT_END, looked_at)) >= 0:
                event = bytes(held[:end])
                del held[: end + len(_EVENT_END)]
                looked_at = 0
                if event.startswith(_DATA):
                    yield event[len(_DATA) :]
            looked_at = max(0, len(held) - len(_EVENT_END) + 1)


class HttpError(Exception):
    """No whole response: nobody listens there, the connection broke, or the time was over."""


class HttpTimeout(HttpError):
    """The server took the call and did not respond in time; it may still be at work on it."""


class HttpClient:
    """Used in one event loop at a time; may be used in another one after `close`."""

    def __init__(self, *, timeout_s: float, connect_timeout_s: float = _CONNECT_LIMIT_S) -> None:
        """`timeout_s`: of each call that states none of its own."""
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: str, *, json: Any = None, timeout_s: float | None = None
    ) -> HttpResponse:
        async with self._open_call(method, url, json, timeout_s) as response:
            return HttpResponse(response.status, response.headers, await response.read())

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, json: Any = None, timeout_s: float | None = None
    ) -> AsyncIterator[HttpStream]:
        """A response that comes piece by piece. The time limit holds for the whole of it."""
        async with self._open_call(method, url, json, timeout_s) as response:
            yield HttpStream(response)

    @asynccontextmanager
    async def _open_call(
        self, method: str, url: str, json: Any, timeout_s: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        started = time.monotonic()
        try:
            with _calls.call(url):
                async with self._open_session().request(
                    method,
                    url,
                    json=json,
                    timeout=_limits(self._connect_timeout_s, limit_s),
                    allow_redirects=False,
                ) as response:
                    yield response
        except aiohttp.ConnectionTimeoutError as error:
            raise HttpError(_explain(method, url, started, "no connection")) from error
        except TimeoutError as error:
            reason = f"no response within {limit_s:g} s"
            raise HttpTimeout(_explain(method, url, started, reason)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise HttpError(_explain(method, url, started, _reason(error))) from error

    async def hold(self, method: str, url: str, *, json: Any = None) -> HeldConnection:
        """As the function of this name; the connection lasts until `close`."""
        started = time.monotonic()
        try:
            return await asyncio.wait_for(self._hold(method, url, json), self._timeout_s)
        except (TimeoutError, asyncio.TimeoutError) as error:
            await self.close()
            reason = f"no response within {self._timeout_s:g} s"
            raise HttpTimeout(_explain(method, url, started, reason)) from error
        except (aiohttp.ClientError, OSError) as error:
            await self.close()
            raise HttpError(_explain(method, url, started, _reason(error))) from error

    async def _hold(self, method: str, url: str, json: Any) -> HeldConnection:
        response = await self._open_session().request(
            method, url, json=json, timeout=aiohttp.ClientTimeout(), allow_redirects=False
        )
        return HeldConnection(response, await response.content.readline(), self)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        """Made inside the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The caller bounds what is in flight; here it is kept from ending of too many open files.
                connector=aiohttp.TCPConnector(limit=max(1, connection_room())),
                cookie_jar=aiohttp.DummyCookieJar(),
                # To pack a page takes a server longer than to send it.
                headers={"Accept-Encoding": "identity"},
                trust_env=False,
            )
        return self._session


def request(method: str, url: str, *, timeout_s: float, json: Any = None) -> HttpResponse:
    """One call, which blocks its thread alone. It runs in a loop that this process keeps for them."""
    call = _request_once(method, url, json=json, timeout_s=timeout_s)
    running = asyncio.run_coroutine_threadsafe(call, _loop_of(os.getpid()))
    try:
        return running.result()
    finally:
        running.cancel()  # of no effect, unless the wait was interrupted


async def _request_once(method: str, url: str, *, json: Any, timeout_s: float) -> HttpResponse:
    client = HttpClient(timeout_s=timeout_s)
    try:
        return await client.request(method, url, json=json)
    finally:
        await client.close()


class HeldConnection:
    """A response whose first line has come and whose end never does: open until `close`, or with this process."""

    def __init__(self, response: aiohttp.ClientResponse, line: bytes, client: HttpClient) -> None:
        self.status, self.line = response.status, line
        self._response = response  # which ends its connection when it is collected
        self._client = client

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), _loop_of(os.getpid())).result()

    async def _close(self) -> None:
        self._response.close()
        await self._client.close()


def hold(method: str, url: str, *, timeout_s: float, json: Any = None) -> HeldConnection:
    """`timeout_s`: until the first line of the response has come."""
    client = HttpClient(timeout_s=timeout_s)
    call = client.hold(method, url, json=json)
    return asyncio.run_coroutine_threadsafe(call, _loop_of(os.getpid())).result()


@functools.cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:
    """By process: a forked one inherits this module, but not the thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"http-{process}", daemon=True).start()
    return loop


@functools.cache
def _limits(connect_timeout_s: float, timeout_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect_timeout_s, total=timeout_s)


def _explain(method: str, url: str, started: float, reason: str) -> str:
    return f"{method} {url} failed after {time.monotonic() - started:.1f} s: {reason}"


def _reason(error: Exception) -> str:
    """
    >>> _reason(ConnectionRefusedError(111, "Connect call failed"))
    'Connection refused'
    """
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else f"{type(error).__name__}: {error}"
