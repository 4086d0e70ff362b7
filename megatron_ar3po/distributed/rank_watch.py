"""Where every rank is, for the person at whose run nothing moves: RUN/status/rank_00017.json, written by a thread of
the rank itself.

The loop only says what it is at (`phase`, `collective`): an assignment, no file. The thread writes every few seconds,
however short a step is, so a file that is no longer written is a sign as well. It also
- looks where the main thread stands (`main_thread`), so that a wait inside Megatron is known too;
- watches the next rank's file, as the last rank does rank 0's, so that whoever falls silent is named by somebody;
- names the stragglers when its rank has waited long (one rank speaks for all that wait), and what its rank has stood
  in for long where it waits for nobody;
- writes the stacks of its process into RUN/status/rank_00017.stacks when RUN/status/show_stacks is touched, on every
  node, without a signal (`ar3po status RUN --stacks`); `kill -USR2 PID` shows them in the rank's log.

An error that ends the run is told who is missing, whatever raised it (`name_missing`).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_ar3po.distributed.main_thread import (
    MainThread,
    Standstill,
    raised_in_collective,
)
from megatron_ar3po.distributed.peer_error import PeerError, add_note, notes_of
from megatron_ar3po.distributed.rank_status import (
    BETWEEN,
    FAILED,
    FAILED_WAITING,
    START,
    WRITE_EVERY_S,
    RankStatus,
    host_name,
)
from megatron_ar3po.distributed.stragglers import (
    describe_stragglers,
    find_stragglers,
    name_ranks,
)
from megatron_ar3po.distributed.watch_thread import WatchThread

logger = logging.getLogger(__name__)

_WRITES_BEFORE_A_REPORT = 6  # a short run.stall_report_s needs a shorter interval

Calls = Callable[[], tuple[str, float]]


def no_calls() -> tuple[str, float]:
    """Of a rank that asks no server: (what it waits for, seconds without an answer)."""
    return "", 0.0


class RankWatch:
    """One rank's own. Costs nothing until `writing` is entered; `phase` and `collective` are for the main thread."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.steps_done = -1
        self.calls: Calls = no_calls
        self._longest_waits_s: dict[str, float] = {}  # by phase, of collectives that came to an end
        self._longest_phases_s: dict[
            str, float
        ] = {}  # the same of phases, from one sign to the next
        self._host = host_name()
        self.world_size = world_size
        self.run = ""  # this start of it, the same on all ranks
        self._phase = (START, time.monotonic())
        self._moved = time.monotonic()
        self._waits = ("", 0.0)
        self._num_collectives = 0
        self._waited_s = 0.0
        self._main_thread = MainThread()
        self._standstill = Standstill()
        self._loop: WatchThread | None = None
        self._agreed: BaseException | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Phases nest: "step" around "train" is "step/train"."""
        outer, _ = self._phase
        is_outermost = outer in (START, BETWEEN)
        self._move()
        self._phase = (name if is_outermost else f"{outer}/{name}", time.monotonic())
        try:
            yield
        finally:
            self._move()
            if is_outermost:
                outer = START if self.steps_done < 0 else BETWEEN
            self._phase = (outer, time.monotonic())

    @contextmanager
    def collective(self, others: str, *, is_of_all: bool = False) -> Iterator[None]:
        """Around a collective; `others` is who takes part, as in "all ranks"."""
        self._move()
        since = self._moved
        self._num_collectives += is_of_all
        self._waits = (others, since)
        try:
            yield
        finally:
            self._waits = ("", 0.0)
            self._moved = time.monotonic()
            phase, waited_s = self._phase[0], self._moved - since
            self._waited_s += waited_s if self.steps_done >= 0 else 0.0
            self._longest_waits_s[phase] = max(waited_s, self.longest_wait_s(phase))

    def _move(self) -> None:
        """The main thread has come to something that it tells of."""
        now, phase = time.monotonic(), self._phase[0]
        longest_s = self._longest_phases_s.get(phase, 0.0)
        self._longest_phases_s[phase] = max(longest_s, now - self._moved)
        self._moved = now

    def longest_wait_s(self, phase: str) -> float:
        return self._longest_waits_s.get(phase, 0.0)

    def longest_phase_s(self, phase: str) -> float:
        return self._longest_phases_s.get(phase, 0.0)

    def still_s(self) -> float:
        """Since the main thread has told of anything, or a server has answered it."""
        still_s = time.monotonic() - self._moved
        calls, quiet_s = self.calls()
        return min(still_s, quiet_s) if calls else still_s

    def status(self, end: str = "") -> RankStatus:
        (phase, phase_since), (waits_for, waits_since) = self._phase, self._waits
        now = time.monotonic()
        waits_s = now - waits_since if waits_for else 0.0
        standstill = self._standstill
        if not waits_for and standstill.waits_in:
            waits_for, waits_s = f"others in {standstill.waits_in}", standstill.seconds
        calls, calls_s = self.calls()
        return RankStatus(
            rank=self.rank,
            world_size=self.world_size,
            host=self._host,
            pid=os.getpid(),
            run=self.run,
            steps_done=self.steps_done,
            phase=phase,
            phase_s=round(now - phase_since, 1),
            waits_for=waits_for,
            waits_s=round(waits_s, 1),
            num_collectives=self._num_collectives,
            at=standstill.at,
            calls=calls,
            calls_s=round(calls_s, 1),
            waited_s=round(self._waited_s, 1),
            still_s=round(self.still_s(), 1),
            end=end,
            written=time.time(),
        )

    def look_around(self) -> None:
        """By the thread: where the main thread stands. What it stood in before, for how long at most, is kept."""
        before, self._standstill = self._standstill, self._main_thread.look()
        if before.waits_in and not self._standstill.waits_in:
            phase = self._phase[0]
            self._longest_waits_s[phase] = max(before.seconds, self.longest_wait_s(phase))

    def describe_stragglers(self) -> str:
        """For the message of a collective that failed; one sentence, empty when nothing is known. Takes as long as it
        takes to see who writes still: some seconds where somebody does not."""
        if self._loop is None:
            return ""
        return describe_stragglers(self._loop.find_silent(), time.time())

    def agree(self, error: Exception) -> Exception:
        """Of an error that all ranks have learnt of: nobody is missing."""
        self._agreed = error
        return error

    def name_missing(self, error: Exception) -> None:
        """Before `error` ends this rank: notes in it which ranks do not write any more or have failed, and whom a
        collective waited for that failed, also one of Megatron's. Of an error that all ranks have agreed on, and of one
        that names them by itself, nothing is to be found out."""
        if self._loop is None or self.world_size == 1 or self._is_known(error):
            return
        is_waited = raised_in_collective(error)
        statuses = self._loop.find_silent() if is_waited else self._loop.read_all()
        others, now = [s for s in statuses if s.rank != self.rank], time.time()
        late = find_stragglers(others, now, is_waited=is_waited)
        if (
            not is_waited
        ):  # whoever is at work, or starts only now, has no part in an error of this rank
            late, statuses = [s for s in late if s.end or s.is_silent(now)], []
        if named := name_ranks(statuses, late, now):
            add_note(error, f"Meanwhile {named}.")

    def _is_known(self, error: BaseException | None) -> bool:
        while error is not None:
            if error is self._agreed or isinstance(error, PeerError):
                return True
            error = error.__cause__
        return False

    @contextmanager
    def writing(
        self, folder: Path, *, report_after_s: float, every_s: float = WRITE_EVERY_S, run: str = ""
    ) -> Iterator[None]:
        """For the life of the run. `report_after_s`: name the stragglers after waiting so long and twice as long as
        ever before in this phase (a rollout may last), then after twice that, and so on, and whoever falls silent for
        so long; 0: never. `run`: this start of it, the same on all ranks."""
        folder.mkdir(parents=True, exist_ok=True)
        self.run = run
        if threading.current_thread() is threading.main_thread():
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        if report_after_s:
            every_s = min(every_s, report_after_s / _WRITES_BEFORE_A_REPORT)
        ended = threading.Event()
        self._loop = WatchThread(self, folder, report_after_s, every_s)
        thread = threading.Thread(
            target=self._loop.run, args=(ended,), name="rank-watch", daemon=True
        )
        thread.start()
        end = "ended"
        try:
            yield
        except BaseException as error:  # whatever ended this rank is told, then it travels on
            is_peers = isinstance(error, PeerError) or raised_in_collective(error)
            how = FAILED_WAITING if is_peers else FAILED
            said = f"{how}: {type(error).__name__}: {error}"[:500]
            end = " ".join([said, *notes_of(error)])[:1000]
            raise
        finally:
            ended.set()
            thread.join(timeout=WRITE_EVERY_S)
            self._standstill = Standstill()
            try:
                self._loop.write_end(self.status(end))
            except OSError as error:  # a full disk: what ended the run must stay the error
                logger.warning("%s cannot be written (%s)", folder, error)
            self._loop = None
