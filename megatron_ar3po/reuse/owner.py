"""One writer per shard: a lock held for the writer's lifetime, and a note beside the shard that says who it is.

The lock is a POSIX record lock on `SHARD.owner`. The kernel drops it when the process ends in whatever way, and a
forked verifier worker does not inherit it, so a killed trainer never blocks its own resume. Its two traps are dealt
with here: it does not see a second opener in the same process (hence `_held_here`), and closing any descriptor of the
file drops it (hence the file is opened once).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
from datetime import datetime, timezone
from pathlib import Path

from megatron_ar3po.reuse.database import ReuseStoreError

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_FLOCK = "hhqqi"  # struct flock: type, whence, start, length, pid
_held_here: set[str] = set()


class OwnerLock:
    """Held by the writer of one shard until `release`."""

    def __init__(self, shard: Path, *, shared: bool = False) -> None:
        """`shared` is for reading a shard that must not change meanwhile (resharding)."""
        self.path = shard.with_suffix(".owner")
        self._key = os.path.realpath(self.path)
        if self._key in _held_here:
            raise ReuseStoreError(
                f"{shard} is already open for writing in this process; close that store first."
            )
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ReuseStoreError(
                f"cannot write {self.path}: {error.strerror}; the reuse store needs a folder it may write to."
            ) from error
        try:
            fcntl.lockf(
                self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
            )
        except OSError as error:
            note = _read_note(self._descriptor)
            os.close(self._descriptor)
            if error.errno in _NO_LOCKS_HERE:
                raise ReuseStoreError(
                    f"the file system of {shard.parent} has no file locks ({error.strerror}), so two writers could "
                    "damage a shard; put run.dir on a file system with locks (Lustre: mount with -o flock)."
                ) from error
            raise ReuseStoreError(
                f"{shard} has another writer: {note}; a shard has one. Stop that run, or give this one its own run.dir."
            ) from error
        if not shared:
            _held_here.add(self._key)
            self._write_note()
        self._shared = shared

    def release(self) -> None:
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not self._shared:
            _held_here.discard(self._key)

    def _write_note(self) -> None:
        note = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(note).encode(), 0)


def _read_note(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        job = f", Slurm job {note['job']}" if note["job"] else ""
        return f"process {note['pid']} on {note['host']}{job}, since {note['since']}"
    except (ValueError, KeyError):  # the writer is just writing its note
        return "a process that has not left its name yet"


def owner_of(shard: Path) -> str | None:
    """Who writes to the shard now, or None where nobody does."""
    path = shard.with_suffix(".owner")
    if os.path.realpath(path) in _held_here:
        return f"process {os.getpid()} on {socket.gethostname()} (this one)"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no note: nobody ever opened it here, or it is a copy
        return None
    try:
        # Asking (F_GETLK) instead of trying: a lock held for a moment could turn away a run that is just starting.
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, query))[0]
        return _read_note(descriptor) if kind == fcntl.F_WRLCK else None
    finally:
        os.close(descriptor)
