"""A line for what is waited for: what it is while it lasts, and at its end how long it took."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_REMIND_EVERY_S = 15.0


@contextmanager
def telling(
    what: str,
    say: Callable[[str], None] = logger.info,
    *,
    every_s: float = _REMIND_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """`say` is given "WHAT: 3.2 s" at its end, and "WHAT: 15 s so far" every so often before. What fails is told by its
    error."""
    began, ended = clock(), threading.Event()

    def remind() -> None:
        while not ended.wait(every_s):
            say(f"{what}: {clock() - began:.0f} s so far")

    thread = threading.Thread(target=remind, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    say(f"{what}: {clock() - began:.1f} s")
