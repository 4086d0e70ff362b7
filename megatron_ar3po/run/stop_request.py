"""When a run stops before its last step, and how: asked by a signal (SIGTERM, SIGINT, SIGUSR1) or by the file that
AR3PO_STOP_FILE names, because `run.max_seconds` have passed, or because of a fault that more steps would not mend.

- The first request lets the step in progress end; the run then saves and is marked STOPPED. Exit code 0, of a fault 1.
- A second SIGINT or SIGTERM, two seconds later or more, ends the process at once: what it started is ended, nothing is
  saved. Exit code 128 + the signal's number. What comes after it is ignored, so that the clean-up is not torn itself.
- Before the loop has started there is nothing to save: the first SIGINT or SIGTERM ends at once. SIGUSR1, a cluster's
  warning, and the file are kept until the loop looks.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # brings torch along, and a stop may be asked for before that is there
    from megatron_ar3po.distributed.collectives import Ranks

logger = logging.getLogger(__name__)

_ENDING = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    def __init__(self, *, max_seconds: float = 0.0, repeat_after_s: float = 2.0) -> None:
        """`max_seconds`: from now on, but one step is made whatever the start has taken; 0: no limit.
        `repeat_after_s`: two signals within it are one. torchrun and a terminal both pass one Ctrl-C on."""
        self._max_seconds, self._started = max_seconds, time.monotonic()
        self._repeat_after_s = repeat_after_s
        self.reason = ""
        self.fault = ""  # of the run itself; it saves and fails
        self._since = 0.0
        self._has_loop = False
        self._num_asked = 0  # before each step
        file = os.environ.get("AR3PO_STOP_FILE", "")
        self._file = Path(file) if file else None

    def install(self) -> None:
        """Main thread only. Replaces the handlers of the three signals for the life of the process."""
        for number in (*_ENDING, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def loop_starts(self) -> None:
        self._has_loop = True

    def agree(self, ranks: Ranks) -> bool:
        """Collective over all ranks: whether the run is to stop. What one rank was asked is the reason on all."""
        self._num_asked += 1
        self._look()
        reason = next(filter(None, ranks.gather(self.reason)), "")
        if reason and not self.reason:
            self._since = time.monotonic()  # our own signal of the same request may be on its way
        self.reason = reason
        return bool(self.reason)

    def _look(self) -> None:
        """At what does not come by itself."""
        if self.reason:
            return
        seconds = time.monotonic() - self._started
        if self.fault:
            self.reason = self.fault
        elif self._file is not None and self._file.exists():
            self.reason = f"the file {self._file} exists"
        elif self._num_asked > 1 and 0 < self._max_seconds <= seconds:
            self.reason = f"run.max_seconds={self._max_seconds:g} reached"
        if self.reason:
            self._since = time.monotonic()
            logger.warning("stopping: %s; the run is saved", self.reason)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGUSR1 and not self._has_loop:
            self.reason, self._since = name, time.monotonic()
            return
        if number in _ENDING and (not self._has_loop or self._was_asked_before(number)):
            for ending in _ENDING:
                signal.signal(ending, signal.SIG_IGN)
            raise KeyboardInterrupt(name)
        if not self.reason:
            self.reason, self._since = name, time.monotonic()
            logger.warning(
                "%s: this step ends first, then the run is saved; once more ends it at once", name
            )

    def _was_asked_before(self, number: int) -> bool:
        if self.reason:
            return time.monotonic() - self._since > self._repeat_after_s
        if number != signal.SIGINT:
            # A rank in a long wait outside of Python hears of a signal only after it, when the file that the launcher
            # touched at the same moment is old. The launcher passes a second request on as SIGINT.
            return False
        try:  # by the file, which the loop has not seen yet
            asked = self._file.stat().st_mtime if self._file is not None else None
        except OSError:
            asked = None
        return asked is not None and time.time() - asked > self._repeat_after_s
