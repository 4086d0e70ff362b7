"""The watch over servers, where a look at one is a function of the test. With real requests: test_sglang_engine.py."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from megatron_ar3po.http_client import HttpTimeout
from megatron_ar3po.servers.server_repair import ServerRepair


class Running:
    name, url, num_restarts = "dp0.s0", "http://nowhere", 0

    def is_running(self) -> bool:
        return True

    def log_tail(self) -> str:
        return ""


class Looks:
    """In the place of the HTTP client: each look stands still for so long, and then its time is over."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)

    async def request(self, method: str, url: str, **_: Any) -> None:
        time.sleep(self._seconds.pop(0))  # the whole process, not this coroutine alone
        raise HttpTimeout("no response")


def restarts_after(*seconds: float) -> int:
    lost: list[str] = []
    repair = ServerRepair(
        [Running()],
        Looks(*seconds),  # type: ignore[arg-type]
        hang_timeout_s=0.3,
        health_timeout_s=0.1,
        on_server_lost=lambda server: lost.append(server.name),
    )
    repair.set_all_well()

    async def look() -> None:
        for _ in seconds:
            await repair.look_at_all()

    asyncio.run(look())
    return len(lost)


def test_a_look_in_which_this_process_stood_still_does_not_condemn_a_server() -> None:
    """0.5 s of 0.3 s passed within the look itself: the next one decides, for then the limit was over when it began."""
    assert restarts_after(0.5) == 0
    assert restarts_after(0.5, 0.0) == 1
