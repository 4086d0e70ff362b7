"""When Python looks for garbage in a process that trains.

A start makes some millions of objects that stay, and next to no cycles: collecting meanwhile found 600 objects in six
seconds. What stays is taken out of what later collections look at, each of which would otherwise stop a step for up to
a second.
"""

from __future__ import annotations

import gc


def hold_collections() -> None:
    """Until `keep_what_is_here`."""
    gc.disable()


def keep_what_is_here() -> None:
    """What exists now is there to stay. Collects from here on."""
    gc.freeze()
    gc.enable()
