"""What a rank writes about itself, RUN/status/rank_00017.json, and how it is read: by the other ranks, and by `ar3po
status` on any machine.

Clocks of nodes differ, and a file that is no longer written looks like one of a node whose clock is behind. So silence
is what does not change between two looks (`look_again`, `StatusObserver`), however old it says it is.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

WRITE_EVERY_S = 5.0
SILENT_AFTER_S = 4 * WRITE_EVERY_S
START, BETWEEN = "start", "between phases"
FAILED, FAILED_WAITING = "failed", "failed in a collective"  # how `end` begins

_LOOK_INTERVAL_S = 0.2
_CLOCKS_DIFFER_S = 3600.0  # at most: what says that it is older is


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """One rank, as it last wrote about itself."""

    rank: int
    world_size: int
    host: str
    pid: int
    run: str = ""  # of one start of the run, the same on all ranks; an earlier start leaves files of another one
    steps_done: int = -1  # -1: the first step has not ended
    phase: str = START  # what the loop is at; "step/train/update" is inside a step's training
    phase_s: float = 0.0  # for how long, when it was written
    waits_for: str = ""  # in a collective, ours or another library's: whom for; empty: at work
    waits_s: float = 0.0
    num_collectives: int = 0  # over all ranks, that it has come to; `meetings` in the file
    at: str = ""  # where the main thread stands, once it has not moved between two looks
    calls: str = ""  # the server that leaves this rank without an answer
    calls_s: float = 0.0
    waited_s: float = 0.0  # for other ranks since its first step, in our collectives
    still_s: float = 0.0  # since its last phase or collective, or answer of a server
    end: str = ""  # "ended", or what it failed of, as "failed: ValueError: no disk"
    written: float = 0.0  # this node's clock
    is_missed: bool = False  # a reader saw that it is no longer written; not in the file

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file and in `ar3po status --json`."""
        found = asdict(self)
        del found["is_missed"]
        return {("meetings" if n == "num_collectives" else n): x for n, x in found.items()}

    def age_s(self, now: float) -> float:
        return max(0.0, now - self.written)

    def is_silent(self, now: float) -> bool:
        return not self.end and (self.is_missed or self.age_s(now) > SILENT_AFTER_S)

    @property
    def who(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"

    def describe(self, now: float) -> str:
        """As in "rank 17 (node3, pid 4711): in rollout for 312 s"."""
        if self.end:
            return f"{self.who}: {self.end}"
        if self.is_silent(now):
            age_s = self.age_s(now)
            since = time.strftime("%H:%M:%S", time.localtime(now - age_s))
            last = f"{self.phase}, waiting for {self.waits_for}" if self.waits_for else self.phase
            return (
                f"{self.who}: not heard of for {age_s:.0f} s (since {since}), last in {last}; "
                f"{explain_silence(self)}"
            )
        seconds = self.phase_s + self.age_s(now)
        told = f"{self.who}: in {self.phase} for {seconds:.0f} s"
        if self.calls:
            told += f", {self.calls}"
        elif self.at and not self.waits_for:
            told += f", at {self.at}"
        return told


def explain_silence(status: RankStatus) -> str:
    """Why its file is no longer written, as far as this machine can tell."""
    unknown = "its process has ended or stands still, or its node is lost"
    if status.host != host_name():
        return unknown
    state = state_of_process(status.pid)
    if state is None:
        return "its process has ended"
    if state in ("T", "t"):
        return (
            f"its process stands still (stopped by a signal; kill -CONT {status.pid} lets it go on)"
        )
    if state == "D":
        return "its process waits in the kernel, for a disk or a device"
    return unknown if state == "?" else "its process runs, but lets no other thread write"


def state_of_process(pid: int) -> str | None:
    """As the kernel names it, on this machine: R, S, D, T. None: no such process; "?": it is no Python, so another one,
    in a container with numbers of its own perhaps."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][:1]
    except OSError:
        return None
    if state in ("Z", "X"):
        return None
    return state if b"python" in words else "?"


def host_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def write_status(folder: Path, status: RankStatus) -> None:
    file = status_file(folder, status.rank)
    file.with_suffix(".tmp").write_text(json.dumps(status.as_json()), "utf-8")
    file.with_suffix(".tmp").replace(file)


def read_status(file: Path) -> RankStatus | None:
    """None: not there yet, half written as some file systems show it, or not the status of a rank. What another version
    says beside is passed over."""
    known = {field.name for field in fields(RankStatus)}
    try:
        found = json.loads(file.read_text("utf-8"))
        found["num_collectives"] = found.pop("meetings", 0)
        status = RankStatus(**{name: value for name, value in found.items() if name in known})
        written, whole = float(status.written), (status.rank, status.world_size, status.pid)
        return replace(status, written=written) if all(type(n) is int for n in whole) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def read_statuses(folder: Path) -> list[RankStatus]:
    """In rank order; ranks that have not written are absent, and so is what an earlier start, perhaps of another size,
    has left."""
    found = (read_status(file) for file in sorted(folder.glob("rank_*.json")))
    statuses = [status for status in found if status is not None]
    newest = max(statuses, key=lambda status: status.written, default=None)
    if newest is None:
        return []
    start = (newest.world_size, newest.run)
    return [s for s in statuses if (s.world_size, s.run) == start]


def look_again(
    folder: Path, statuses: Sequence[RankStatus], *, limit_s: float = 1.5 * WRITE_EVERY_S
) -> list[RankStatus]:
    """Of those that seem silent by this machine's clock: whether they write after all. Takes up to `limit_s`, and no
    time where none seems so. One that does counts as heard of just now."""
    now = time.time()
    doubtful = {s.rank: s for s in statuses if s.is_silent(now) and s.age_s(now) < _CLOCKS_DIFFER_S}
    alive: dict[int, RankStatus] = {}
    end = time.monotonic() + limit_s
    while len(alive) < len(doubtful) and time.monotonic() < end:
        time.sleep(_LOOK_INTERVAL_S)
        for rank in doubtful.keys() - alive.keys():
            found = read_status(status_file(folder, rank))
            if found is not None and found.written != doubtful[rank].written:
                alive[rank] = replace(found, written=time.time())
    return [alive.get(s.rank, s) for s in statuses]


class StatusObserver:
    """The ranks of one start, looked at several times: `written` becomes when the file was first seen as it is now, by
    this machine's clock. Whoever has never written is absent."""

    def __init__(
        self,
        folder: Path,
        world_size: int,
        run: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._world_size, self._run, self._clock = folder, world_size, run, clock
        self._seen: dict[int, tuple[float, float]] = {}  # rank: (written, when it was seen)

    def look(self, ranks: Sequence[int] | None = None) -> list[RankStatus]:
        """`ranks`: those alone, else all."""
        found = []
        for rank in range(self._world_size) if ranks is None else ranks:
            status = read_status(status_file(self._folder, rank))
            if status is None or (status.world_size, status.run) != (self._world_size, self._run):
                continue
            written, seen = self._seen.get(rank, (None, 0.0))
            if status.written != written:
                seen = self._clock()
                self._seen[rank] = (status.written, seen)
            found.append(replace(status, written=time.time() - (self._clock() - seen)))
        return found

    def judge(self, status: RankStatus, *, is_missed: bool) -> RankStatus:
        """As heard of just now, or not since it has written by its own clock."""
        now = time.time()
        if not is_missed:
            return replace(status, written=now)
        return replace(
            status, written=min(self._seen[status.rank][0], status.written), is_missed=True
        )

    def has_changed(self, status: RankStatus, since: float) -> bool:
        """Whether the file was seen to change after `since` by the clock."""
        return self._seen.get(status.rank, (0.0, -1.0))[1] > since


def status_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.json"


def stacks_file(folder: Path, rank: int) -> Path:
    return status_file(folder, rank).with_suffix(".stacks")
