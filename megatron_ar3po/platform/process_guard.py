"""Processes that must not outlive the one which started them.

`die_with_parent` is for one that has nothing to clear up: the kernel kills it, also while it stands still (SIGSTOP).

`start_guard` is for one with children and temporary files; `servers.child_process` is the other end. Its whole process
group ends at once when a byte arrives on standard input, and within a second after the parent ended, whatever ended it,
SIGKILL too, and also when the group stands still at that moment; its temporary files go with it.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable

_GUARD_INTERVAL_S = 0.5
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends, whatever ended it. A parent that has ended by
    now is not noticed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_guard(
    parent_pid: int, temporary: str, before_end: Callable[[], None] = lambda: None
) -> None:
    """Ends this process group when asked to, or once the parent is another process; `temporary` is removed first.
    End-of-file on standard input would not tell of the parent's death: a forked worker of the trainer may hold the
    other end open long after it."""
    if os.getpgrp() != os.getpid():
        raise ValueError(
            f"the process {os.getpid()} is not the leader of its process group {os.getpgrp()}; start it in a session "
            "of its own (start_new_session=True), so that it can be ended as a whole."
        )
    # A guard that stands still sees nothing. The kernel wakes it: this signal does nothing to a process that runs, as
    # one does whose parent has merely ended the thread that started it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)

    def watch() -> None:
        asked = False
        while not asked and os.getppid() == parent_pid:
            asked = bool(select.select([sys.stdin], [], [], _GUARD_INTERVAL_S)[0])
        shutil.rmtree(temporary, ignore_errors=True)
        before_end()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="guard", daemon=True).start()
