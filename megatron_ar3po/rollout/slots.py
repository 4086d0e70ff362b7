"""`PrioritySlots`: a bound on what is in flight; who waits is let in by rank, not by arrival."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.observability.timeline import Timeline

# Of a server whose KV cache is not known and servers.max_concurrent_requests=0.
_DEFAULT_SLOTS = 256


def num_slots(servers: ServersConfig, *, kv_tokens: int, longest: int) -> int:
    """Requests in flight at once. By the KV cache: as many as fit at full length (`longest`, in tokens), so that no
    server has to retract one; a longer queue at the server would fill nothing that ours does not. `kv_tokens` of all
    servers together; 0 when it is not known."""
    if not servers.max_concurrent_requests and kv_tokens and longest:
        return max(1, kv_tokens // longest)
    return (servers.max_concurrent_requests or _DEFAULT_SLOTS) * servers.servers_per_replica


class PrioritySlots:
    """Like a semaphore, but the smallest `rank` goes first; among equals the first to come."""

    def __init__(self, num_slots: int, timeline: Timeline | None = None) -> None:
        assert num_slots >= 1, f"{num_slots} slots let nothing through"
        self.num_slots = num_slots
        self._timeline = timeline or Timeline()
        self._free = num_slots  # below 0 after a shrink, until as many have come back
        self._waiting: list[tuple[Any, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    def resize(self, num_slots: int) -> None:
        """More let the next in line in at once; fewer take nobody's slot away."""
        assert num_slots >= 1, f"{num_slots} slots let nothing through"
        added, self.num_slots = num_slots - self.num_slots, num_slots
        self._free += added
        while self._free > 0 and self._waiting:
            self._free -= 1
            self._release()

    @asynccontextmanager
    async def slot(self, rank: Any) -> AsyncIterator[None]:
        await self._acquire(rank)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, rank: Any) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), turn))
        try:
            with self._timeline.during("slots"):
                await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # the slot was handed over in the same breath as the cancel
            raise

    def _release(self) -> None:
        """Hands the slot to the next in line, so that nobody can slip in between."""
        while self._waiting and self._free >= 0:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
