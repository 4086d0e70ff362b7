"""Where every rank is, for the person at whose run nothing moves: RUN/status/rank_00017.json, written by a thread of
the rank itself.

The loop only says what it is at (`phase`, `collective`): an assignment, no file. The thread writes every few seconds,
however short a step is, so a file that is no longer written is a sign as well. It also
- names the stragglers when its rank has waited long for others (one rank speaks for all that wait);
- writes the stacks of its process into RUN/status/rank_00017.stacks when RUN/status/show_stacks is touched, on every
  node, without a signal (`ar3po status RUN --stacks`); `kill -USR2 PID` shows them in the rank's log.

Whom the others wait for follows from `num_collectives`, those over all ranks that a rank has come to: all ranks run the
same loop, so those with the fewest are behind, and of these the ones that do not wait themselves are the stragglers.
Not seen: who is late inside one of Megatron's own collectives; there the stacks tell.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 5.0
SILENT_AFTER_S = 12 * WRITE_EVERY_S
STACKS_REQUEST = "show_stacks"
MAX_RANKS_NAMED = 4
START, BETWEEN = "start", "between phases"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """One rank, as it last wrote about itself."""

    rank: int
    world_size: int
    host: str
    pid: int
    steps_done: int = -1  # -1: the first step has not ended
    phase: str = START  # what the loop is at; "step/train/update" is inside a step's training
    phase_s: float = 0.0  # for how long, when it was written
    waits_for: str = ""  # in a collective: whom for; empty: at work
    waits_s: float = 0.0
    num_collectives: int = 0  # over all ranks, that it has come to; `meetings` in the file
    end: str = ""  # "ended", or what it failed of
    written: float = 0.0  # this node's clock

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file and in `ar3po status --json`."""
        fields = asdict(self)
        return {("meetings" if n == "num_collectives" else n): x for n, x in fields.items()}

    def age_s(self, now: float) -> float:
        return max(0.0, now - self.written)

    def is_silent(self, now: float) -> bool:
        return not self.end and self.age_s(now) > SILENT_AFTER_S

    def describe(self, now: float) -> str:
        """As in "rank 17 (node3, pid 4711): in rollout for 312 s"."""
        who = f"rank {self.rank} ({self.host}, pid {self.pid})"
        if self.end:
            return f"{who}: {self.end}"
        if self.is_silent(now):
            return f"{who}: not heard of for {self.age_s(now):.0f} s; its process has ended or its node is lost"
        return f"{who}: in {self.phase} for {self.phase_s + self.age_s(now):.0f} s"


class RankWatch:
    """One rank's own. Costs nothing until `writing` is entered; `phase` and `collective` are for the main thread."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.steps_done = -1
        self._longest_waits_s: dict[str, float] = {}  # by phase, of collectives that came to an end
        self._host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        self._world_size = world_size
        self._phase = (START, time.monotonic())
        self._waits = ("", 0.0)
        self._num_collectives = 0
        self._folder: Path | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Phases nest: "step" around "train" is "step/train"."""
        outer, _ = self._phase
        is_outermost = outer in (START, BETWEEN)
        self._phase = (name if is_outermost else f"{outer}/{name}", time.monotonic())
        try:
            yield
        finally:
            self._phase = (BETWEEN if is_outermost else outer, time.monotonic())

    @contextmanager
    def collective(self, others: str, *, is_of_all: bool = False) -> Iterator[None]:
        """Around a collective; `others` is who takes part, as in "all ranks"."""
        since = time.monotonic()
        self._num_collectives += is_of_all
        self._waits = (others, since)
        try:
            yield
        finally:
            self._waits = ("", 0.0)
            phase, waited_s = self._phase[0], time.monotonic() - since
            self._longest_waits_s[phase] = max(waited_s, self.longest_wait_s(phase))

    def longest_wait_s(self, phase: str) -> float:
        return self._longest_waits_s.get(phase, 0.0)

    def status(self, end: str = "") -> RankStatus:
        (phase, phase_since), (waits_for, waits_since) = self._phase, self._waits
        now = time.monotonic()
        return RankStatus(
            rank=self.rank,
            world_size=self._world_size,
            host=self._host,
            pid=os.getpid(),
            steps_done=self.steps_done,
            phase=phase,
            phase_s=round(now - phase_since, 1),
            waits_for=waits_for,
            waits_s=round(now - waits_since, 1) if waits_for else 0.0,
            num_collectives=self._num_collectives,
            end=end,
            written=time.time(),
        )

    def describe_stragglers(self) -> str:
        """For the message of a collective that failed; one sentence, empty when nothing is known."""
        if self._folder is None:
            return ""
        statuses = {status.rank: status for status in read_statuses(self._folder)}
        statuses[self.rank] = self.status()
        return describe_stragglers(sorted(statuses.values(), key=lambda s: s.rank), time.time())

    @contextmanager
    def writing(
        self, folder: Path, *, report_after_s: float, every_s: float = WRITE_EVERY_S
    ) -> Iterator[None]:
        """For the life of the run. `report_after_s`: name the stragglers after waiting so long and twice as long as
        ever before in this phase (a rollout may last), then after twice that, and so on; 0: never."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        if threading.current_thread() is threading.main_thread():
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        ended = threading.Event()
        loop = _WatchLoop(self, folder, report_after_s, every_s)
        thread = threading.Thread(target=loop.run, args=(ended,), name="rank-watch", daemon=True)
        thread.start()
        end = "ended"
        try:
            yield
        except BaseException as error:  # whatever ended this rank is told, then it travels on
            end = f"failed: {type(error).__name__}: {error}"[:500]
            raise
        finally:
            ended.set()
            thread.join(timeout=WRITE_EVERY_S)
            try:
                write_status(folder, self.status(end))
            except OSError as error:  # a full disk: what ended the run must stay the error
                logger.warning("%s cannot be written (%s)", folder, error)
            self._folder = None


class _WatchLoop:
    """The thread: writes, answers requests for stacks, speaks up."""

    def __init__(
        self, watch: RankWatch, folder: Path, report_after_s: float, every_s: float
    ) -> None:
        self._watch = watch
        self._folder = folder
        self._report_after_s = report_after_s
        self._every_s = every_s
        self._next_report_s = 0.0
        self._stacks_shown = time.time()
        self._is_told = False

    def run(self, ended: threading.Event) -> None:
        while True:
            status = self._watch.status()
            try:
                write_status(self._folder, status)
                self._show_stacks_if_asked()
            except (
                OSError
            ) as error:  # a full or absent file system must not end a run that can go on
                if not self._is_told:
                    logger.warning(
                        "%s cannot be written (%s); ar3po status will be out of date",
                        self._folder,
                        error,
                    )
                self._is_told = True
            self._report_a_long_wait(status)
            if ended.wait(self._every_s):
                return

    def _report_a_long_wait(self, status: RankStatus) -> None:
        least_s = max(self._report_after_s, 2 * self._watch.longest_wait_s(status.phase))
        if not self._report_after_s or status.waits_s < least_s:
            self._next_report_s = 0.0
            return
        if status.waits_s < self._next_report_s:
            return
        self._next_report_s = 2 * status.waits_s
        if not self._is_another_speaking():
            # As an error, so that it is heard from any rank: the one that usually speaks may be the one that hangs.
            logger.error(
                "waiting for %s for %.0f s in %s: %s",
                status.waits_for,
                status.waits_s,
                status.phase,
                self._watch.describe_stragglers(),
            )

    def _is_another_speaking(self) -> bool:
        """The lowest rank that has waited about as long. Read one by one: rank 0 usually is it."""
        now = time.time()
        for rank in range(self._watch.rank):
            other = read_status(_file(self._folder, rank))
            if other and other.waits_s and not other.is_silent(now):
                return True
        return False

    def _show_stacks_if_asked(self) -> None:
        request = self._folder / STACKS_REQUEST
        if not request.exists() or request.stat().st_mtime <= self._stacks_shown:
            return
        self._stacks_shown = request.stat().st_mtime
        target = stacks_file(self._folder, self._watch.rank)
        with target.with_suffix(".tmp").open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        target.with_suffix(".tmp").replace(target)


def find_stragglers(statuses: Sequence[RankStatus], now: float) -> list[RankStatus]:
    """Whom the others wait for: nobody when nobody waits, or when all that are behind wait themselves."""
    behind = min((s.num_collectives for s in statuses if not s.end), default=0)
    waiting = [s for s in statuses if s.waits_for and not s.is_silent(now)]
    late = [s for s in statuses if s.num_collectives <= behind and not s.waits_for]
    return [s for s in statuses if waiting and (s in late or s.end or s.is_silent(now))]


def describe_stragglers(statuses: Sequence[RankStatus], now: float) -> str:
    num_waiting = sum(bool(s.waits_for) and not s.is_silent(now) for s in statuses)
    late = find_stragglers(statuses, now)
    unknown = statuses[0].world_size - len(statuses) if statuses else 0
    named = [s.describe(now) for s in late[:MAX_RANKS_NAMED]]
    if len(late) > MAX_RANKS_NAMED:
        named.append(f"and {len(late) - MAX_RANKS_NAMED} more")
    if unknown:
        named.append(
            f"{unknown} rank{'s' * (unknown > 1)} that {'have' if unknown > 1 else 'has'} never written"
        )
    verb = "ranks wait" if num_waiting != 1 else "rank waits"
    if named:
        return f"{num_waiting} {verb} for " + "; ".join(named)
    if num_waiting:
        return f"{num_waiting} {verb}, and nobody is behind: the network between the nodes, or a rank that just ended"
    return "no rank waits in a collective of the control plane"


def write_status(folder: Path, status: RankStatus) -> None:
    file = _file(folder, status.rank)
    file.with_suffix(".tmp").write_text(json.dumps(status.as_json()), "utf-8")
    file.with_suffix(".tmp").replace(file)


def read_status(file: Path) -> RankStatus | None:
    try:
        fields = json.loads(file.read_text("utf-8"))
        return RankStatus(num_collectives=fields.pop("meetings", 0), **fields)
    except (
        FileNotFoundError,
        json.JSONDecodeError,
    ):  # not there yet, or a file system that shows a half-written one
        return None


def read_statuses(folder: Path) -> list[RankStatus]:
    """In rank order; ranks that have not written are absent, and so is what a run of another size has left."""
    found = (read_status(file) for file in sorted(folder.glob("rank_*.json")))
    statuses = [status for status in found if status is not None]
    newest = max(statuses, key=lambda status: status.written, default=None)
    return [s for s in statuses if newest is not None and s.world_size == newest.world_size]


def stacks_file(folder: Path, rank: int) -> Path:
    return _file(folder, rank).with_suffix(".stacks")


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.json"
