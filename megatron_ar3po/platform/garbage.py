"""When Python looks for garbage in a process that trains.

A start makes some millions of objects that stay, and next to no cycles: collecting meanwhile found 600 objects in six
seconds. What stays is taken out of what later collections look at, each of which would otherwise stop a step for up to
a second.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made and not freed before the youngest are looked at, and how often that before the next generation is.
_SPARING = (10_000, 50, 1_000_000)


def hold_collections() -> None:
    """Until `keep_what_is_here`."""
    gc.disable()


def keep_what_is_here() -> None:
    """What exists now is there to stay. Collects from here on."""
    gc.freeze()
    gc.enable()


@contextmanager
def spare_collections() -> Iterator[None]:
    """While a rollout holds more and more responses, none of which is garbage: the oldest objects, which Python would
    look through again whenever a quarter has come to them, are left alone; the young are not."""
    before = gc.get_threshold()
    gc.set_threshold(*_SPARING)
    try:
        yield
    finally:
        gc.set_threshold(*before)
