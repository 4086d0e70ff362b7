"""One writer per shard: `folder_owner`, with the store's own sentences. The note lies beside the shard, `SHARD.owner`.

A run's leaders own their shards and its first rank the run's folder; a command that changes a store owns the shards
that it changes and makes sure that nobody owns the folder. Either puts down its own note before it looks at the
other's, so of two at one moment at least one sees the other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from megatron_ar3po.folder_owner import NAME, FolderOwnedError, FolderOwner, living_owner
from megatron_ar3po.reuse.database import ReuseStoreError

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class ShardOwner:
    """The writer of one shard, until `release`."""

    def __init__(self, shard: Path) -> None:
        """Raises `ReuseStoreError` where it has another writer, or where its folder is no place for a store."""
        try:
            _check_locks(shard.parent)
            self._owner = FolderOwner.claim_note(note_of(shard))
        except FolderOwnedError as error:
            raise ReuseStoreError(_describe_other_writer(shard, str(error))) from error
        except OSError as error:
            raise ReuseStoreError(
                f"cannot write {note_of(shard)}: {error.strerror}; the reuse store needs a folder it may write to."
            ) from error
        self._shard = shard

    def check(self) -> None:
        """Before a write. Raises `FolderOwnedError` where it was taken over from."""
        try:
            self._owner.check()
        except FolderOwnedError as error:
            raise FolderOwnedError(f"{self._shard} {error}.") from error

    def release(self) -> None:
        """A second call does nothing."""
        self._owner.release()


def note_of(shard: Path) -> Path:
    return shard.with_suffix(".owner")


def owner_of(shard: Path) -> str | None:
    """Who writes to the shard now, or None where nobody does."""
    owner = living_owner(note_of(shard))
    return None if owner is None else owner.describe()


def check_no_writer(shard: Path) -> None:
    """Before it is read for a resharding: it must not change meanwhile."""
    writer = owner_of(shard)
    if writer is not None:
        raise ReuseStoreError(_describe_other_writer(shard, writer))


@contextmanager
def owned_by_a_command(shards: Sequence[Path]) -> Iterator[None]:
    """For a command that changes shards of one folder while no run is under way there."""
    with ExitStack() as stack:
        for shard in shards:
            stack.callback(ShardOwner(shard).release)
        check_no_run(shards[0].parent)
        yield


def check_no_run(folder: Path) -> None:
    """Raises where the reuse folder is that of a run which is under way, or is just starting."""
    run = folder.parent
    owner = living_owner(run / NAME)
    if owner is not None:
        raise ReuseStoreError(
            f"{run} belongs to a run that is under way: {owner.describe()}. Its store can be changed when it has ended."
        )


def _describe_other_writer(shard: Path, writer: str) -> str:
    return f"{shard} has another writer: {writer}; a shard has one. Stop that run, or give this one its own run.dir."


def _check_locks(folder: Path) -> None:
    """SQLite needs locks of the file system for readers beside the writer; its own message would not say so."""
    probe = folder / f".locks.{secrets.token_hex(4)}"
    descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        raise ReuseStoreError(
            f"the file system of {folder} has no file locks ({error.strerror}), so a reader could damage what is just "
            "written; put run.dir on a file system with locks (Lustre: mount with -o flock)."
        ) from error
    finally:
        os.close(descriptor)
        probe.unlink()
