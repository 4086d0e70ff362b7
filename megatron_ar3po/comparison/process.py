"""One training run as a process of its own, without the seconds that its imports take: it is forked from a
process that has imported everything already (multiprocessing's `forkserver`, `preloaded`) and has done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_GRACE_S = 15.0

Main = Callable[[Sequence[str]], int]  # words of the command line -> exit code


def preload() -> None:
    """Before the first run: without it each imports for itself."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["megatron_ar3po.comparison.preloaded"]
    )


class RunProcess:
    """Started at once; `log` takes all it says."""

    def __init__(
        self, main: Main, words: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process: ForkServerProcess = context.Process(
            target=_run, args=(main, list(words), str(log), dict(environment))
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        assert self._process.pid is not None, "started"
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs. Negative: ended by that signal."""
        return self._process.exitcode

    def end(self) -> None:
        """Nothing of a run stays: its process group is asked, then killed."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.poll() is not None:
                return
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # it has not come to a group of its own yet
                self._process.kill()
            self._process.join(_GRACE_S)


def _run(main: Main, words: list[str], log: str, environment: dict[str, str]) -> None:
    os.setsid()  # a group of its own: it is ended as a whole
    threading.Thread(target=_end_with_the_comparison, name="guard", daemon=True).start()
    with open(log, "ab", buffering=0) as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.update(environment)
    sys.exit(main(words))


def _end_with_the_comparison() -> None:
    """The process that this one was forked from does not end when the comparison is killed."""
    comparison = multiprocessing.parent_process()
    assert comparison is not None, "a run of a comparison is started by it"
    comparison.join()
    os.killpg(os.getpgrp(), signal.SIGKILL)
