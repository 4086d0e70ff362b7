"""The thread of a `RankWatch`: writes its rank's status, answers requests for stacks, and speaks up: for a rank that
has waited long or stood in one thing for long, and of the next rank when that one falls silent."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import threading
import time
from pathlib import Path
from typing import Protocol

from megatron_ar3po.distributed.rank_status import (
    SILENT_AFTER_S,
    WRITE_EVERY_S,
    RankStatus,
    StatusObserver,
    read_status,
    stacks_file,
    status_file,
    write_status,
)
from megatron_ar3po.distributed.stragglers import (
    describe_phases,
    describe_stragglers,
    find_stragglers,
    find_unknown,
)

logger = logging.getLogger(__name__)

STACKS_REQUEST = "show_stacks"

_LEAST_WRITES_MISSED = 3
_MOST_SILENT_S = 3 * SILENT_AFTER_S
_LOOK_INTERVAL_S, _GRACE_S = 0.1, 2.5  # of a rank that should have written by now
_PAUSE_A_RANK_S = 0.001  # between two looks: thousands of files are not read ten times a second


class Watched(Protocol):
    """A `RankWatch`, as its thread knows it."""

    rank: int
    world_size: int
    run: str

    def look_around(self) -> None: ...

    def status(self) -> RankStatus: ...

    def still_s(self) -> float: ...

    def longest_wait_s(self, phase: str) -> float: ...

    def longest_phase_s(self, phase: str) -> float: ...


class WatchThread:
    """The thread: writes, answers requests for stacks, speaks up."""

    def __init__(self, watch: Watched, folder: Path, report_after_s: float, every_s: float) -> None:
        self._watch = watch
        self._folder = folder
        self._report_after_s = report_after_s
        self._every_s = every_s
        self._next_report_s = 0.0
        # By the clock of the file system, which may not be ours: of an earlier start.
        self._stacks_shown = _time_of(folder / STACKS_REQUEST)
        self._is_told = self._is_over = False
        self._writing = threading.Lock()  # the main thread asks too, when it fails
        self._next_rank = NextRank(watch, folder, min(report_after_s, _MOST_SILENT_S), every_s)

    def run(self, ended: threading.Event) -> None:
        while True:
            try:
                self._look()
            # A full or absent file system must not end a run that can go on, and whatever else goes wrong here must not
            # make a silent rank of one that lives.
            except Exception as error:
                if not self._is_told:
                    is_of_disk = isinstance(error, OSError)
                    what = "cannot be written" if is_of_disk else "is not kept as it should be"
                    logger.warning(
                        "%s %s (%s); ar3po status will be out of date",
                        self._folder,
                        what,
                        error,
                        exc_info=not is_of_disk,
                    )
                self._is_told = True
            if ended.wait(self._every_s):
                return

    def _look(self) -> None:
        began = time.monotonic()
        self._watch.look_around()
        status = self._watch.status()
        try:
            self._write(status)
            self._show_stacks_if_asked()
            # A file system that stood still tells nothing of other ranks.
            if self._report_after_s and time.monotonic() - began < self._every_s:
                self._watch_next_rank()
        finally:
            self._report_a_long_wait(status)

    def read_all(self) -> list[RankStatus]:
        return StatusObserver(self._folder, self._watch.world_size, self._watch.run).look()

    def find_silent(self) -> list[RankStatus]:
        """All ranks; who writes within an interval and a little, or has ended, is there, and nobody else is, whatever
        the clocks of the nodes say."""
        observer = StatusObserver(self._folder, self._watch.world_size, self._watch.run)
        mine, statuses = self._watch.rank, observer.look()
        silent = {s.rank for s in statuses if s.rank != mine and not s.end}
        began = wrote = time.monotonic()
        limit_s = self._every_s + _GRACE_S
        while silent and time.monotonic() < began + limit_s:
            pause_s = max(_LOOK_INTERVAL_S, _PAUSE_A_RANK_S * len(silent))
            time.sleep(min(pause_s, self._every_s / 2))
            if time.monotonic() - wrote > self._every_s / 2:  # others look at us just now
                with contextlib.suppress(
                    OSError
                ):  # of a full disk: to find out is more than to be seen
                    self._write(self._watch.status())
                wrote = time.monotonic()
            looked = observer.look(sorted(silent))
            silent -= {s.rank for s in looked if s.end or observer.has_changed(s, began)}
        statuses = observer.look()  # all of one moment, to be compared
        silent -= {s.rank for s in statuses if s.end or observer.has_changed(s, began)}
        return [
            self._watch.status()
            if s.rank == mine
            else observer.judge(s, is_missed=s.rank in silent)
            for s in statuses
        ]

    def _watch_next_rank(self) -> None:
        if not self._next_rank.has_fallen_silent():
            return
        statuses = self.find_silent()
        if any(s.is_missed for s in statuses) or find_unknown(statuses):
            logger.error("%s", describe_stragglers(statuses, time.time()))

    def _report_a_long_wait(self, status: RankStatus) -> None:
        watch, phase = self._watch, status.phase
        longest_s = (
            watch.longest_wait_s(phase) if status.waits_for else watch.longest_phase_s(phase)
        )
        seconds = status.waits_s if status.waits_for else status.still_s
        if not self._report_after_s or seconds < max(self._report_after_s, 2 * longest_s):
            self._next_report_s = 0.0
            return
        if seconds < self._next_report_s:
            return
        self._next_report_s = 2 * seconds
        if self._is_another_speaking(status):
            return
        statuses = self.find_silent()
        told = describe_stragglers(statuses, time.time())
        if status.waits_for:
            # As an error, so that it is heard from any rank: the one that usually speaks may be the one that hangs.
            logger.error(
                "waiting for %s for %.0f s in %s: %s",
                status.waits_for,
                status.waits_s,
                phase,
                told,
            )
        elif watch.still_s() >= seconds:  # still
            late = find_stragglers(statuses, time.time())
            if not late or [s.rank for s in late] == [watch.rank]:
                told = f"{watch.status().describe(time.time())}; {describe_phases(statuses)}"
            logger.warning("nothing has moved for %.0f s: %s", seconds, told)

    def _is_another_speaking(self, status: RankStatus) -> bool:
        """The lowest rank that has waited about as long, or stood still. Read one by one: rank 0 usually is it."""
        now = time.time()
        for rank in range(self._watch.rank):
            other = read_status(status_file(self._folder, rank))
            if other is None or other.is_silent(now):
                continue
            if other.waits_s or (not status.waits_for and other.still_s >= self._report_after_s):
                return True
        return False

    def _write(self, status: RankStatus) -> None:
        with self._writing:
            if not self._is_over:
                write_status(self._folder, status)

    def write_end(self, status: RankStatus) -> None:
        """The last: a thread that looks for silent ranks still writes nothing over it."""
        is_held = self._writing.acquire(timeout=WRITE_EVERY_S)  # a file system may hold the thread
        try:
            self._is_over = True
            write_status(self._folder, status)
        finally:
            if is_held:
                self._writing.release()

    def _show_stacks_if_asked(self) -> None:
        asked = _time_of(self._folder / STACKS_REQUEST)
        if asked <= self._stacks_shown:
            return
        self._stacks_shown = asked
        target = stacks_file(self._folder, self._watch.rank)
        with target.with_suffix(".tmp").open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        target.with_suffix(".tmp").replace(target)


def _time_of(file: Path) -> float:
    """0: it is not there."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class NextRank:
    """The rank after this one, after the last rank 0: every rank is looked at by one other, at the price of one small
    file each."""

    def __init__(self, watch: Watched, folder: Path, silent_after_s: float, every_s: float) -> None:
        self._rank = (watch.rank + 1) % watch.world_size
        self._is_alone = watch.world_size == 1
        self._file, self._run = status_file(folder, self._rank), watch.run
        self._enough = max(_LEAST_WRITES_MISSED, math.ceil(silent_after_s / every_s))
        self._last: RankStatus | None = None
        self._missed = 0

    def has_fallen_silent(self) -> bool:
        """True once, when it has not written for so many of our own intervals. Of those alone: if this process stood
        still, or the file system did, the other one has missed nothing."""
        status = read_status(self._file)
        if status is not None and status.run != self._run:
            status = None  # of an earlier start: in this one it has not written
        if self._is_alone or (status is not None and status.end) or status != self._last:
            self._last, self._missed = status, 0
            return False
        self._missed += 1
        return self._missed == self._enough
