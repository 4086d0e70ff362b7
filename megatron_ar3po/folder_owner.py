"""One owner for what lies on a shared file system, a run's folder or a shard of its reuse store: who writes there now,
and when another process may take over.

    RUN/owner.json                  host, process, job, restart count, array index; its time of change is the heartbeat
    RUN/reuse/dp00_of_01.owner      the same, of the replica's leader

It rests on the file system alone: a lock of the kernel may be known to one node only, and outlives a process that is
stopped. Taken over from is

- an owner that let go, or whose process is gone on this host;
- the same job with a lower restart count (a requeue);
- an owner without a heartbeat for `stale_after_s`;

and nobody else: the newcomer is refused at once, told who the owner is, and has changed nothing. Of two newcomers at
one moment the first to make a file decides (`open` with O_EXCL, which is atomic on local disks and on NFS), and the
other then finds an owner.

An owner that was taken over from (it was stopped, its node was cut off) writes nothing more: `check_owner` raises. It
is asked where a rank has waited and is about to write what lasts: before a step's rows of the ledger and its responses,
before each transaction of the store, before a step's row of metrics, before a checkpoint is begun and committed, before
the marker of the end. Once a step would be too seldom, for a rollout waits for minutes and writes in the middle; before
every single write would be no safer, since what is stopped between the question and the write cannot be asked. That gap
is some microseconds. The other owner goes on from a checkpoint, so what falls into it is a row of a step that its next
resume drops, or marks as abandoned.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from megatron_ar3po.file_digests import seal, unseal

logger = logging.getLogger(__name__)

NAME = "owner.json"
HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
_CLAIM_WAIT_S = 0.5  # for another claimant; a newcomer is refused within a second
_CLAIM_RETRY_S = 0.01
_CLAIM_LIMIT_S = 10.0
_CHECK_LIMIT_S, _READ_AGAIN_S = 2.0, 0.05


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

    def __init__(self, note: Path, owner: Owner, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.owner = owner
        self.path = note
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
        """A run's folder; makes it where there is none. Raises `FolderOwnedError` where it has another owner."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls.claim_note(
                folder / NAME, me=me, heartbeat_s=heartbeat_s, stale_after_s=stale_after_s
            )
        except FolderOwnedError as error:
            raise FolderOwnedError(
                f"run.dir={folder} has an owner (its {NAME}): {error}. Two processes would destroy each other's "
                "files: let that one end, or give this run its own run.dir or run.name."
            ) from error
        except OSError as error:  # a user can mend it: no rights, no space, a file in the way
            raise ValueError(
                f"run.dir={folder} cannot be written ({error.strerror}: {error.filename or folder}); make room or mend "
                "its permissions, or choose another run.dir."
            ) from error

    @classmethod
    def claim_note(
        cls,
        note: Path,
        *,
        me: Owner | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        stale_after_s: float = STALE_AFTER_S,
    ) -> FolderOwner:
        """What `note` stands for. `FolderOwnedError` names the owner and why it stays, and no more."""
        me = me or this_process()
        _refuse(note, me, stale_after_s)
        with _only_claimant(note):
            _refuse(note, me, stale_after_s)  # a newcomer that was faster
            write_note(note, me)
        check_note(note, me.token)
        return cls(note, me, heartbeat_s=heartbeat_s)

    def check(self) -> None:
        """Before a write. Raises `FolderOwnedError` where it was taken over from."""
        check_note(self.path, self.owner.token)

    def release(self) -> None:
        """A second call does nothing; nor does one of an owner that was taken over from, or in a forked child."""
        if self._stop.is_set() or os.getpid() != self.owner.pid:
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError, FolderOwnedError), _only_claimant(self.path):
            there = read_note(self.path)
            if there is not None and there.token == self.owner.token:
                self.path.unlink(missing_ok=True)

    def _beat(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            there = read_note(self.path)
            if there is not None and there.token != self.owner.token:
                return  # taken over from: `check` says so where somebody wants to write
            with contextlib.suppress(OSError):  # a full or lost disk: the run itself will say it
                os.utime(self.path)


def check_owner(folder: Path, token: str) -> None:
    """Before a write, on any rank: the run with `token` owns its folder still. Raises `FolderOwnedError`."""
    try:
        check_note(folder / NAME, token)
    except FolderOwnedError as error:
        raise FolderOwnedError(
            f"run.dir={folder} {error}. Its last checkpoint is what the other one went on from."
        ) from error


def check_note(note: Path, token: str) -> None:
    """The same of any note. A file system that fails for a moment is asked again."""
    there = _read_patiently(note, limit_s=_CHECK_LIMIT_S)
    if there is not None and there.token == token:
        return
    by = f"by {there.describe()}" if there is not None else f"or its {note.name} is gone"
    raise FolderOwnedError(
        f"was taken over {by}: this process was stopped or cut off for long and writes nothing more"
    )


def living_owner(note: Path, *, stale_after_s: float = STALE_AFTER_S) -> Owner | None:
    """Who writes now; None where nobody does, or whoever did would be taken over from. For commands that ask."""
    there = read_note(note)
    if there is None or not why_it_stays(note, there, this_process(), stale_after_s=stale_after_s):
        return None
    return there


def read_owner(folder: Path) -> Owner | None:
    return read_note(folder / NAME)


def read_note(note: Path) -> Owner | None:
    """None where nobody is the owner, or where what stands there is no note any more (it was damaged)."""
    try:
        return Owner(**unseal(json.loads(note.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def why_it_stays(note: Path, there: Owner, me: Owner, *, stale_after_s: float) -> str:
    """Why `me` may not take over from `there`; "" if it may."""
    if there.job and (there.job, there.array_index) == (me.job, me.array_index):
        if me.restart > there.restart:
            return ""
        if me.restart < there.restart:
            return "a later restart of this very job"
    is_near = (there.host, there.namespace) == (me.host, me.namespace)
    if is_near:
        if (there.pid, there.started) == (me.pid, me.started):
            return "this very process"
        return "it is running" if _is_alive(there) else ""
    silent_s = _age_s(note)
    if silent_s > stale_after_s:
        return ""
    return f"heard of {max(silent_s, 0.0):.0f} s ago; after {stale_after_s:g} s it counts as gone"


def _read_patiently(note: Path, *, limit_s: float) -> Owner | None:
    """A network file system may fail for a moment, as where a note has just taken another's place."""
    deadline = time.monotonic() + limit_s
    while (there := read_note(note)) is None and note.exists() and time.monotonic() < deadline:
        time.sleep(_READ_AGAIN_S)
    return there


def _refuse(note: Path, me: Owner, stale_after_s: float) -> None:
    there = _read_patiently(note, limit_s=_CLAIM_WAIT_S / 2)
    if there is not None:
        why_not = why_it_stays(note, there, me, stale_after_s=stale_after_s)
        if why_not:
            raise FolderOwnedError(f"{there.describe()} ({why_not})")
    elif note.exists():
        _refuse_unreadable(note, stale_after_s)


def _refuse_unreadable(note: Path, stale_after_s: float) -> None:
    """Somebody's, damaged: as long as it may be of a process that writes, nobody takes over."""
    silent_s = _age_s(note)
    if silent_s <= stale_after_s:
        raise FolderOwnedError(
            f"{note} is damaged, so who it is cannot be told, and it was heard of {max(silent_s, 0.0):.0f} s ago. When "
            f"it is sure that nothing writes there, remove the file; after {stale_after_s:g} s without a sign of life "
            "it counts as left behind"
        )
    logger.warning("%s is damaged; its owner has given no sign of life and counts as gone", note)


def _is_alive(owner: Owner) -> bool:
    try:
        process = psutil.Process(owner.pid)
        is_same = abs(process.create_time() - owner.started) < 1.0
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _age_s(path: Path) -> float:
    """Since its last change, by the file system's clock, which all nodes share."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_claimant(note: Path) -> Iterator[None]:
    """Nobody else changes the note meanwhile: a matter of milliseconds. A claimant that was killed in between has left
    its file; it is passed over after `_CLAIM_LIMIT_S`, and as others may have done the same, the note then has a moment
    to settle."""
    path = note.with_name(f".{note.name}.claim")
    deadline = time.monotonic() + _CLAIM_WAIT_S
    was_left = False
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            break
        except FileExistsError:
            if time.monotonic() < deadline:
                time.sleep(_CLAIM_RETRY_S)
                continue
        with contextlib.suppress(FileNotFoundError):  # it has just gone
            if _age_s(path) < _CLAIM_LIMIT_S:
                raise FolderOwnedError(
                    f"another process that is claiming it this very moment ({path}); try again in "
                    f"{_CLAIM_LIMIT_S:g} s"
                )
            path.unlink()
            was_left = True
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
    if was_left:
        time.sleep(_CLAIM_WAIT_S)


def write_note(note: Path, me: Owner) -> None:
    """It is there whole or not at all."""
    temporary = note.with_name(f".{note.name}.{me.token}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(seal(asdict(me)), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(note)
    finally:
        temporary.unlink(missing_ok=True)


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
