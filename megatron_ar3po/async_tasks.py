"""Waiting for many coroutines at once, so that nothing of them runs on when one fails."""

from __future__ import annotations

import asyncio
from typing import Any


async def gather(work: Any) -> list[Any]:
    """Results in order; the first error cancels the rest and waits for it before it travels on."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(tasks)


async def end(tasks: list[asyncio.Future[Any]]) -> None:
    """Nothing of them runs on."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.gather(*pending, return_exceptions=True)
