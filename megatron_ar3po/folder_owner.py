"""One owner for a folder on a shared file system: who writes in it now, and when another process may take it over.

    RUN/owner.json    host, process, job, restart count, array index; its time of change is the heartbeat

It rests on the file system alone: a lock of the kernel may be known to one node only, and outlives a process that is
stopped. A folder is taken over from

- an owner that let go, or whose process is gone on this host;
- the same job with a lower restart count (a requeue);
- an owner without a heartbeat for `stale_after_s`;

and from nobody else: the newcomer is refused at once, told who owns the folder, and has changed nothing. An owner that
was taken over from (it was stopped, its node was cut off) finds that out before it writes again: `check` raises.

Two newcomers at one moment: each puts its note in place whole, waits a little, and reads whose note stayed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil
import xxhash

logger = logging.getLogger(__name__)

NAME = "owner.json"
HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
_SETTLE_S = 0.3


class FolderOwnedError(ValueError):
    """Somebody else owns the folder, or has taken it over. The message says who, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The note that an owner leaves. `token` is of this claim alone; "" in the note of an owner that let go."""

    host: str
    pid: int
    started: float  # of the process, seconds since the epoch: a number is given again
    namespace: str  # of process numbers: containers may share a host's name
    job: str
    array_index: str
    restart: int
    since: str
    token: str

    def describe(self) -> str:
        job = f", job {self.job}" if self.job else ""
        index = f"[{self.array_index}]" if self.array_index else ""
        restart = f", restart {self.restart}" if self.restart else ""
        return f"process {self.pid} on {self.host}{job}{index}{restart}, since {self.since}"


def this_process() -> Owner:
    """From the environment that Slurm and torchrun give."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        namespace=_pid_namespace(),
        job=os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", ""),
        array_index=os.environ.get("SLURM_ARRAY_TASK_ID", ""),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )


class FolderOwner:
    """Held from `claim` to `release`."""

    def __init__(self, folder: Path, owner: Owner, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.owner = owner
        self.path = folder / NAME
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(heartbeat_s,), name="owner", daemon=True
        )
        self._thread.start()

    @classmethod
    def claim(
        cls,
        folder: Path,
        *,
        me: Owner | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        stale_after_s: float = STALE_AFTER_S,
    ) -> FolderOwner:
        """Makes the folder where there is none. Raises `FolderOwnedError` where it has another owner."""
        me = me or this_process()
        there = read_owner(folder)
        if there is None and (folder / NAME).exists():
            _refuse_unreadable(folder, stale_after_s=stale_after_s)
        if there is not None:
            why_not = why_it_stays(folder, there, me, stale_after_s=stale_after_s)
            if why_not:
                raise FolderOwnedError(
                    f"run.dir={folder} has an owner (its {NAME}): {there.describe()} ({why_not}). Two processes would "
                    "destroy each other's files: let that one end, or give this run its own run.dir or run.name."
                )
        write_owner(folder, me)
        time.sleep(_SETTLE_S)  # another newcomer may have put its note over this one
        check_owner(folder, me.token)
        return cls(folder, me, heartbeat_s=heartbeat_s)

    def release(self) -> None:
        """A second call does nothing; nor does one of an owner that was taken over from."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        there = read_owner(self.path.parent)
        if there is not None and there.token == self.owner.token:
            self.path.unlink(missing_ok=True)

    def _beat(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            there = read_owner(self.path.parent)
            if there is None or there.token != self.owner.token:
                return  # taken over from: `check_owner` says so where somebody wants to write
            with contextlib.suppress(OSError):  # a full or lost disk: the run itself will say it
                os.utime(self.path)


def check_owner(folder: Path, token: str) -> None:
    """Before a write, on any rank: the run with `token` is the owner still. Raises `FolderOwnedError`."""
    there = read_owner(folder)
    if there is not None and there.token == token:
        return
    by = f"by {there.describe()}" if there is not None else "or removed (owner.json is gone)"
    raise FolderOwnedError(
        f"run.dir={folder} was taken over {by}: this process was stopped or cut off for long and writes nothing more. "
        "Its last checkpoint is what the other one went on from."
    )


def read_owner(folder: Path) -> Owner | None:
    """None where nobody owns it, or where what stands there is no note any more (it was damaged)."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        written = content.pop("xxh3")
        return Owner(**content) if written == _digest_of(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _refuse_unreadable(folder: Path, *, stale_after_s: float) -> None:
    """Somebody's note, damaged: as long as it may be of a process that writes, nobody takes over."""
    path = folder / NAME
    silent_s = _seconds_since_heartbeat(folder)
    if silent_s <= stale_after_s:
        raise FolderOwnedError(
            f"{path} is damaged: who owns run.dir={folder} cannot be told, and the owner was heard of "
            f"{max(silent_s, 0.0):.0f} s ago. When it is sure that nothing writes there, remove the file; after "
            f"{stale_after_s:g} s without a sign of life it counts as left behind."
        )
    logger.warning("%s is damaged; its owner has given no sign of life and counts as gone", path)


def why_it_stays(folder: Path, there: Owner, me: Owner, *, stale_after_s: float) -> str:
    """Why `me` may not take over from `there`; "" if it may."""
    if there.job and (there.job, there.array_index) == (me.job, me.array_index):
        if me.restart > there.restart:
            return ""
        if me.restart < there.restart:
            return "a later restart of this very job"
    is_near = (there.host, there.namespace) == (me.host, me.namespace)
    if is_near:
        return "it is running" if _is_alive(there) else ""
    silent_s = _seconds_since_heartbeat(folder)
    if silent_s > stale_after_s:
        return ""
    return f"heard of {max(silent_s, 0.0):.0f} s ago; after {stale_after_s:g} s it counts as gone"


def _is_alive(owner: Owner) -> bool:
    try:
        process = psutil.Process(owner.pid)
        is_same = abs(process.create_time() - owner.started) < 1.0
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _seconds_since_heartbeat(folder: Path) -> float:
    """By the file system's clock, which all nodes share."""
    probe = folder / f".{NAME}.{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime - (folder / NAME).stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def write_owner(folder: Path, me: Owner) -> None:
    """The note is there whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{NAME}.{me.token}"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({**asdict(me), "xxh3": _digest_of(asdict(me))}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NAME)
    except OSError as error:  # a user can mend it: no rights, no space, a file in the way
        raise ValueError(
            f"run.dir={folder} cannot be written ({error.strerror}: {error.filename or folder}); make room or mend its "
            "permissions, or choose another run.dir."
        ) from error


def _digest_of(content: Mapping[str, object]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
