"""`RoutedEngine`: samples through the router in front of all servers (`servers.routing=global`).

The responses come back to the replica that asked. Who answered stands in the response (`x-ar3po-server`), so usage is
counted per process of a server, whoever owns it; a request that was lost on the way may have been anyone's and is
counted under `NOBODY`. A replica restarts its own servers only, and the first replica the router; the others wait for
it, and a request that a dead router took along costs none of its tries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import HttpError, HttpResponse
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.observability.timeline import Timeline
from megatron_ar3po.servers.engine_requests import EngineRequest, Result
from megatron_ar3po.servers.engine_responses import LostRequest
from megatron_ar3po.servers.request_batches import RequestBatches
from megatron_ar3po.servers.server import Server
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.usage import NOBODY

logger = logging.getLogger(__name__)

# The router asks its servers once a second how they are and sends to a dead one until then.
_UNTIL_THE_ROUTER_KNOWS_S = 1.5
_POLL_INTERVAL_S = 0.2


class RoutedEngine(SglangEngine):
    """`servers`: this replica's own; `all_urls`: those behind the router, for aborts. `client`: this replica's name;
    two replicas may give a request the same id, and a server refuses the second. `on_router_lost` blocks until the
    router serves again; replicas that did not start it have none. Two limits: `router_timeout_s` of one call of the
    router, `router_back_s` for the first replica to restart it."""

    def __init__(
        self,
        servers: Sequence[Server],
        config: ServersConfig,
        *,
        vocab_size: int,
        is_deterministic: bool,
        router_url: str,
        all_urls: Sequence[str],
        client: str = "",
        on_server_lost: Callable[[Any], None] | None = None,
        on_router_lost: Callable[[], None] | None = None,
        router_timeout_s: float = 10.0,
        router_back_s: float = 180.0,
        timeline: Timeline | None = None,
    ) -> None:
        super().__init__(
            servers,
            config,
            vocab_size=vocab_size,
            is_deterministic=is_deterministic,
            on_server_lost=on_server_lost,
            timeline=timeline,
        )
        self._batches = RequestBatches(self._http, by="single")  # the router takes no others
        self._router_url = router_url
        self._id_prefix = f"{client}." if client else ""
        self._all_urls = tuple(all_urls)
        self._own_repair: asyncio.Future[None] | None = None
        self._on_router_lost = on_router_lost
        self._router_timeout_s, self._router_back_s = router_timeout_s, router_back_s
        self._router_repair = asyncio.Lock()

    async def repair_all(self) -> None:
        self._start_own_repair()
        if self._own_repair is not None:
            await self._own_repair

    async def num_in_flight_of_others(self) -> int | None:
        """As the router counts them; None while it does not answer."""
        try:
            workers = (await self._ask_router()).json()["workers"]
        except HttpError:  # `_mend_router` sees to it
            return None
        return max(0, sum(int(worker["load"]) for worker in workers) - len(self._in_flight))

    async def close(self) -> None:
        if self._own_repair is not None and not self._own_repair.done():
            self._own_repair.cancel()
        await super().close()

    def _start_own_repair(self) -> None:
        """In the background: meanwhile the lost samples are drawn by other servers."""
        is_running = self._own_repair is not None and not self._own_repair.done()
        if not is_running:
            self._own_repair = asyncio.ensure_future(super().repair_all())

    async def _request_until_usable(self, request: EngineRequest[Result]) -> Result:
        failure: Exception | None = None
        sent, failed = 0, 0
        while failed <= self._config.max_retries:
            try:
                return await self._attempt(
                    self._router_url, request, sent, process=NOBODY, abort_at=self._all_urls
                )
            except LostRequest as lost:
                failure = lost
                logger.warning(
                    "request %s, try %d by the router: %s", request.request_id, sent + 1, lost
                )
            sent += 1
            if await self._mend_router():
                continue
            failed += 1
            await asyncio.sleep(_UNTIL_THE_ROUTER_KNOWS_S)
            self._start_own_repair()
            if failed > 1:  # the others' servers did not answer either: wait for our own
                await self.repair_all()
        raise RolloutEngineError(
            f"request {request.request_id} brought no usable response through the router {self._router_url} in "
            f"{self._config.max_retries + 1} tries (servers.max_retries={self._config.max_retries}); the last: "
            f"{failure}. Look at the logs of the router and of the servers."
        )

    async def _look_at_servers(self) -> None:
        await asyncio.gather(self._mend_router(), super()._look_at_servers())

    async def _mend_router(self) -> bool:
        """Whether the router was lost; then it serves again when this returns. One that hangs is as good as dead."""
        if not self._router_repair.locked() and await self._router_answers():
            return False
        async with self._router_repair:
            if await self._router_answers():
                return True
            if self._on_router_lost is not None:
                logger.warning("the router %s was lost: restarting it", self._router_url)
                await asyncio.to_thread(self._on_router_lost)
                return True
            deadline = time.monotonic() + self._router_back_s
            while not await self._router_answers():
                if time.monotonic() > deadline:
                    raise RolloutEngineError(
                        f"the router {self._router_url} was lost, and the first replica did not bring it back within "
                        f"{self._router_back_s:g} s; look at RUN/logs/router.log."
                    )
                await asyncio.sleep(_POLL_INTERVAL_S)
        return True

    async def _router_answers(self) -> bool:
        try:
            return (await self._ask_router()).status == 200
        except HttpError:  # dead or hung
            return False

    async def _ask_router(self) -> HttpResponse:
        return await self._http.request(
            "GET", f"{self._router_url}/workers", timeout_s=self._limit_s(self._router_timeout_s)
        )
