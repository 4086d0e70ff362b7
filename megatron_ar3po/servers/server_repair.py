"""`ServerRepair`: finds servers that died or hang while requests are in flight, and has each revived once, however many
requests it took along. One event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_ar3po.async_tasks import gather
from megatron_ar3po.http_client import HttpClient, HttpError
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.server import Server

logger = logging.getLogger(__name__)

_HEALTH_TIMEOUT_S = 30.0  # SGLang gives its own scheduler 20 s to answer


@dataclass(slots=True)
class WatchedServer:
    server: Server
    repair: asyncio.Lock = field(default_factory=asyncio.Lock)
    well_at: float = 0.0  # when it was last seen to generate, or idle


class ServerRepair:
    def __init__(
        self,
        servers: Sequence[Server],
        http: HttpClient,
        *,
        hang_timeout_s: float,
        health_timeout_s: float,
        on_server_lost: Callable[[Any], None] | None,
    ) -> None:
        """`on_server_lost(server)` blocks until the server runs again, with the current weights; without one a lost
        server is an error. `health_timeout_s`: the most that a single look at a server may take."""
        self.servers = [WatchedServer(server) for server in servers]
        self._http = http
        self._hang_timeout_s = hang_timeout_s
        self._health_timeout_s = min(health_timeout_s, hang_timeout_s, _HEALTH_TIMEOUT_S)
        self._on_server_lost = on_server_lost
        self._revival = asyncio.Lock()  # one at a time: all ranks of the replica take part

    def set_all_well(self) -> None:
        """Nobody looked at them meanwhile, for a whole training phase perhaps."""
        for watched in self.servers:
            watched.well_at = time.monotonic()

    async def look_at_all(self) -> None:
        """Repairs those that died, or generated nothing for `hang_timeout_s`."""
        await gather(self._look_at(watched) for watched in self.servers)

    async def repair_dead(self) -> None:
        """Those that are dead now serve again when this returns."""
        for watched in self.servers:
            await self.wait_for_repair(watched)  # one that is revived runs, but without weights
            if not watched.server.is_running():
                await self.repair_if_lost(watched, watched.server.num_restarts)

    async def wait_for_repair(self, watched: WatchedServer) -> None:
        if watched.repair.locked():
            async with watched.repair:
                pass

    async def repair_if_lost(
        self, watched: WatchedServer, num_restarts: int, *, is_hung: bool = False
    ) -> None:
        """Waits until the server of a lost request serves again. The first of its requests to come here has it
        restarted, the others find it done. `num_restarts`: of the process that the request went to."""
        async with watched.repair:
            server = watched.server
            if server.num_restarts != num_restarts:
                return
            if not is_hung and server.is_running() and await self._is_healthy(server):
                return
            if self._on_server_lost is None:
                raise RolloutEngineError(f"server {server.name} was lost. {server.log_tail()}")
            logger.warning("server %s was lost: restarting it", server.name)
            async with self._revival:
                await asyncio.to_thread(self._on_server_lost, server)
            watched.well_at = time.monotonic()

    async def _look_at(self, watched: WatchedServer) -> None:
        """The limit is over if it was when the look began: a look in which this process stood still tells nothing."""
        server, num_restarts = watched.server, watched.server.num_restarts
        if watched.repair.locked():
            return
        began = time.monotonic()
        if not server.is_running():
            await self.repair_if_lost(watched, num_restarts)
        elif await self._is_healthy(server):
            watched.well_at = time.monotonic()
        elif began - watched.well_at > self._hang_timeout_s:
            logger.warning(
                "server %s has generated nothing for servers.hang_timeout_s=%g",
                server.name,
                self._hang_timeout_s,
            )
            await self.repair_if_lost(watched, num_restarts, is_hung=True)

    async def _is_healthy(self, server: Server) -> bool:
        try:
            response = await self._http.request(
                "GET", f"{server.url}/health_generate", timeout_s=self._health_timeout_s
            )
        except HttpError:  # dead or hung: both are lost
            return False
        return response.status == 200
