"""When a run is asked to stop: Ctrl-C, SIGTERM, SIGUSR1 (a cluster's warning) or the file AR3PO_STOP_FILE names.

The first request lets the step in progress end; the run then saves and exits 0. A second one, two seconds later or
more, stops at once. Before the loop has started there is nothing to save, and the first one stops at once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)


class StopRequest:
    def __init__(self, *, repeat_after_s: float = 2.0) -> None:
        """`repeat_after_s`: two signals within it are one. torchrun and a terminal both pass one Ctrl-C on."""
        self._repeat_after_s = repeat_after_s
        self.reason = ""
        self._since = 0.0
        self._has_loop = False
        file = os.environ.get("AR3PO_STOP_FILE", "")
        self._file = Path(file) if file else None

    def install(self) -> None:
        """Main thread only. Replaces the handlers of the three signals for the life of the process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def loop_starts(self) -> None:
        self._has_loop = True

    @property
    def is_requested(self) -> bool:
        if not self.reason and self._file is not None and self._file.exists():
            self.reason = f"the file {self._file} exists"
            logger.warning(
                "asked to stop: %s; this step ends first, then the run is saved", self.reason
            )
        return bool(self.reason)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGUSR1 and not self._has_loop:
            self.reason = (
                name  # a warning that comes early is kept: the run saves after its first step
            )
            return
        is_repeat = bool(self.reason) and time.monotonic() - self._since > self._repeat_after_s
        if not self._has_loop or is_repeat:
            raise KeyboardInterrupt(name)
        if not self.reason:
            self.reason, self._since = name, time.monotonic()
            logger.warning(
                "%s: this step ends first, then the run is saved; once more stops at once", name
            )
