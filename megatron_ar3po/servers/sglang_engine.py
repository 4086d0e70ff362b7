"""`SglangEngine`: samples from SGLang servers over HTTP, one request per response, several of them in one HTTP call
where `servers.requests` says so (`request_batches`).

Promises:
- token in, token out: what comes back is checked (lengths, vocabulary, finish reason, one policy version) before
  anyone sees it; a response that fails is drawn again or raised, never passed on;
- one `generate` returns one response: each try is a request of its own under an id of its own, and the id of a try that
  was given up is aborted at the server, so no response can be counted twice;
- every wait has a limit; a server that dies, or generates nothing for `servers.hang_timeout_s` while requests are in
  flight, is handed to `on_server_lost` once, whatever it took with it, and then only those requests are drawn again;
- all that the servers did is counted (`usage`), responses that were thrown away included.

A prompt's samples all go to one server, which holds its prefix.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from megatron_ar3po.async_tasks import end
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import HttpClient, HttpError, HttpTimeout
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.observability.timeline import Timeline
from megatron_ar3po.servers.engine_requests import (
    EngineRequest,
    Result,
    encode_generation,
    encode_scoring,
)
from megatron_ar3po.servers.engine_responses import (
    LostRequest,
    RefusedRequest,
    explain_refusal,
)
from megatron_ar3po.servers.request_batches import RequestBatches
from megatron_ar3po.servers.server import Server, process_of
from megatron_ar3po.servers.server_repair import ServerRepair, WatchedServer
from megatron_ar3po.servers.time_limits import time_limits
from megatron_ar3po.servers.usage import mark_unused, retries_of, usage_of
from megatron_ar3po.types import Generation, GenerationRequest, Scoring, ScoringRequest
from megatron_ar3po.usage import NO_RETRIES, Process, Retries, ServerUsage

logger = logging.getLogger(__name__)

_ABORT_TIMEOUT_S = 10.0
_LOOKS_PER_HANG_TIMEOUT = 4  # how often a server is looked at within servers.hang_timeout_s


class SglangEngine:
    """A `RolloutEngine`. `on_server_lost(server)` blocks until the server runs again and holds the current weights
    under the current version; without one a lost server ends the run. `is_deterministic`: the servers honour seeds, and
    each request says its own."""

    def __init__(
        self,
        servers: Sequence[Server],
        config: ServersConfig,
        *,
        vocab_size: int,
        is_deterministic: bool,
        on_server_lost: Callable[[Any], None] | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        assert servers, "an engine needs at least one server"
        self.usage: dict[Process, ServerUsage] = {}
        self._id_prefix = ""
        self._in_flight: dict[str, tuple[Sequence[str], str]] = {}  # by request id: URLs, which try
        self._retries: dict[str, Retries] = {}  # of the requests that are under way, by request id
        self._config = config
        self._hang_timeout_s = time_limits(config).hang_s
        self._vocab_size = vocab_size
        self._is_deterministic = is_deterministic
        self._http = HttpClient(timeout_s=config.request_timeout_s)
        self._batches = RequestBatches(self._http, by=config.requests)
        self._repair = ServerRepair(
            servers,
            self._http,
            hang_timeout_s=self._hang_timeout_s,
            health_timeout_s=config.request_timeout_s,
            on_server_lost=on_server_lost,
        )
        self._timeline = timeline or Timeline()
        self._watch: asyncio.Task[None] | None = None

    @property
    def servers(self) -> list[Server]:
        return [watched.server for watched in self._repair.servers]

    async def generate(self, request: GenerationRequest) -> Generation:
        encoded = encode_generation(
            request, vocab_size=self._vocab_size, is_seeded=self._is_deterministic
        )
        return await self._request_and_count(encoded)

    async def score(self, request: ScoringRequest) -> Scoring:
        return await self._request_and_count(encode_scoring(request, vocab_size=self._vocab_size))

    async def _request_and_count(self, request: EngineRequest[Result]) -> Result:
        """With the retries that it took."""
        try:
            result = await self._request_until_usable(request)
            retries = self._retries.get(request.request_id, result.retries)
        finally:
            self._retries.pop(request.request_id, None)
        return replace(result, retries=retries)

    async def _request_until_usable(self, request: EngineRequest[Result]) -> Result:
        watched = self._server_of(request.prompt_token_ids)
        server = watched.server
        failure: Exception | None = None
        for attempt in range(self._config.max_retries + 1):
            await self._repair.wait_for_repair(watched)
            num_restarts = server.num_restarts
            try:
                return await self._attempt(server.url, request, attempt, process=process_of(server))
            except LostRequest as lost:
                failure = lost
                logger.warning(
                    "request %s, try %d on %s: %s",
                    request.request_id,
                    attempt + 1,
                    server.name,
                    lost,
                )
            await self._repair.repair_if_lost(watched, num_restarts)
        raise RolloutEngineError(
            f"request {request.request_id} brought no usable response from server {server.name} in "
            f"{self._config.max_retries + 1} tries (servers.max_retries={self._config.max_retries}); "
            f"the last: {failure}. "
            f"{server.log_tail()}"
        )

    async def abort(self, request_id: str) -> None:
        """The try that is in flight; harmless when there is none."""
        if (running := self._in_flight.get(request_id)) is not None:
            await self._abort_try(*running)

    async def num_in_flight_of_others(self) -> int | None:
        return None

    async def repair_all(self) -> None:
        """Servers that are dead now serve again when this returns: before the next publish, after a rollout."""
        await self._repair.repair_dead()

    async def close(self) -> None:
        if self._watch is not None:
            await end([self._watch])
            if not self._watch.cancelled() and (error := self._watch.exception()) is not None:
                logger.warning("the watch over the servers had ended with: %s", error)
        await self._batches.close()
        await self._http.close()

    def _server_of(self, prompt_token_ids: Sequence[int]) -> WatchedServer:
        servers = self._repair.servers
        if len(servers) == 1:
            return servers[0]
        prefix = zlib.crc32(np.asarray(prompt_token_ids, dtype=np.int32).tobytes())
        return servers[prefix % len(servers)]

    async def _attempt(
        self,
        url: str,
        request: EngineRequest[Result],
        attempt: int,
        *,
        process: Process,
        abort_at: Sequence[str] = (),
    ) -> Result:
        """`process`: who answers, unless the response says so itself, as it must when a router chooses."""
        abort_at = abort_at or (url,)
        rid = self._batches.unique_id(_try_id(self._id_prefix + request.request_id, attempt))
        started = time.monotonic()
        is_answered = False
        self._start_watch()
        self._in_flight[request.request_id] = (abort_at, rid)
        try:
            prompt = request.prompt_token_ids if request.may_have_company else None
            with self._timeline.during("http", request.request_id):
                reply = await self._batches.send(url, rid, request.body, prompt_token_ids=prompt)
            process = reply.process or process
            meta = reply.content["meta_info"]
            served_s = float(meta.get("e2e_latency") or 0.0)
            self._timeline.record_service(served_s, request.request_id, process[0])
            seen = usage_of(meta)
            is_answered = True
            try:
                result = request.read(reply.content, process[0])
            except (LostRequest, RolloutEngineError):
                seen = mark_unused(seen)
                before = self._retries.get(request.request_id, NO_RETRIES)
                self._retries[request.request_id] = before + retries_of(seen)
                raise
            finally:
                self._count(process, seen)
        except LostRequest as lost:
            process = lost.process or process
            raise
        except RefusedRequest as refused:
            process = refused.process or process
            said = explain_refusal(process[0], rid, str(refused), request.body)
            raise RolloutEngineError(said) from refused
        except HttpTimeout as error:
            await self._abort_try(abort_at, rid)
            limit = self._config.request_timeout_s
            raise LostRequest(f"no response within servers.request_timeout_s={limit:g}") from error
        except HttpError as error:
            raise LostRequest(str(error)) from error
        finally:
            del self._in_flight[request.request_id]
            # Also when we cancel: the server aborts a request whose client is gone.
            if not is_answered:
                self._count(process, request.lost)
        return replace(result, server=process[0], elapsed_s=time.monotonic() - started)

    def _start_watch(self) -> None:
        if self._watch is not None and self._watch.done():
            self._watch.result()  # what it could not mend ends the run
        if not self._in_flight:
            self._repair.set_all_well()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._watch_servers())

    async def _watch_servers(self) -> None:
        """While requests are in flight. A request's own limit is far longer than it takes to see that a server hangs:
        when that is restarted, its requests come back as lost."""
        while self._in_flight:
            await asyncio.sleep(self._hang_timeout_s / _LOOKS_PER_HANG_TIMEOUT)
            if self._in_flight:
                await self._look_at_servers()

    async def _look_at_servers(self) -> None:
        await self._repair.look_at_all()

    async def _abort_try(self, urls: Sequence[str], rid: str) -> None:
        for url in urls:
            try:
                await self._http.request(
                    "POST",
                    f"{url}/abort_request",
                    json={"rid": rid},
                    timeout_s=self._limit_s(_ABORT_TIMEOUT_S),
                )
            except HttpError:
                # A server that cannot hear runs nothing that we wait for.
                logger.info("server %s did not take the abort of %s", url, rid)

    def _count(self, process: Process, usage: ServerUsage) -> None:
        self.usage[process] = self.usage.get(process, ServerUsage()) + usage

    def _limit_s(self, seconds: float) -> float:
        """No other call may take longer than a request itself."""
        return min(seconds, self._config.request_timeout_s)


def _try_id(request_id: str, attempt: int) -> str:
    """SGLang aborts every request whose id begins with the one it is given, so no id may be the beginning of another:
    `s1.p1.1.1` would take `s1.p1.1.10` along.

    >>> _try_id("s1.p1.1.1", 1)
    's1.p1.1.1/try2/'
    """
    return f"{request_id}/try{attempt + 1}/"
