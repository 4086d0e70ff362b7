"""`RoutedEngine`: samples through the router in front of all servers (`rollout.routing=global`).

The answers come back to the replica that asked. Who answered stands in the answer (`x-ar3po-server`), so usage is
counted per process of a server, whoever owns it; a request that was lost on the way may have been anyone's and is
counted under `NOBODY`. A replica restarts its own servers only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from megatron_ar3po.config.schema import RolloutConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.rollout.sglang_client import (
    NOBODY,
    Answer,
    LostRequest,
    Question,
    Server,
    SglangEngine,
)

logger = logging.getLogger(__name__)

# The router asks its servers once a second how they are and sends to a dead one until then.
_UNTIL_THE_ROUTER_KNOWS_S = 1.5


class RoutedEngine(SglangEngine):
    """`servers`: this replica's own; `all_urls`: those behind the router, for aborts. `client`: this replica's name;
    two replicas may give a request the same id, and a server refuses the second."""

    def __init__(
        self,
        servers: Sequence[Server],
        config: RolloutConfig,
        *,
        vocab_size: int,
        router_url: str,
        all_urls: Sequence[str],
        client: str = "",
        on_server_lost: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__(servers, config, vocab_size=vocab_size, on_server_lost=on_server_lost)
        self._router_url = router_url
        self._id_prefix = f"{client}." if client else ""
        self._all_urls = tuple(all_urls)
        self._repair: asyncio.Future[None] | None = None

    async def repair_all(self) -> None:
        self._start_repair()
        if self._repair is not None:
            await self._repair

    async def close(self) -> None:
        if self._repair is not None and not self._repair.done():
            self._repair.cancel()
        await super().close()

    def _start_repair(self) -> None:
        """In the background: meanwhile the lost samples are drawn by other servers."""
        is_running = self._repair is not None and not self._repair.done()
        if not is_running:
            self._repair = asyncio.ensure_future(super().repair_all())

    async def _answered(self, request: Question[Answer]) -> Answer:
        failure: Exception | None = None
        for attempt in range(self._config.max_retries + 1):
            try:
                return await self._attempt(
                    self._router_url, request, attempt, process=NOBODY, abort_at=self._all_urls
                )
            except LostRequest as lost:
                failure = lost
                logger.warning(
                    "request %s, try %d by the router: %s", request.request_id, attempt + 1, lost
                )
            await asyncio.sleep(_UNTIL_THE_ROUTER_KNOWS_S)
            self._start_repair()
            if attempt:  # the others' servers did not answer either: wait for our own
                await self.repair_all()
        raise RolloutEngineError(
            f"request {request.request_id} brought no usable answer through the router {self._router_url} in "
            f"{self._config.max_retries + 1} tries (rollout.max_retries={self._config.max_retries}); the last: "
            f"{failure}. Look at the logs of the router and of the servers."
        )
