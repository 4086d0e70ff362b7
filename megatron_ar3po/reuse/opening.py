"""Claiming one rank's shard for writing: looked at first, then opened: made empty, or resharded from another DP size,
where needed."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ar3po.reuse.database import (
    Fingerprint,
    ReuseStoreError,
    ShardState,
    create_database,
    explain_errors,
    open_for_writing,
    read_state,
    refuse_strangers,
    seal_database,
    transaction,
    write_fingerprint,
)
from megatron_ar3po.reuse.owner import ShardOwner, check_no_writer
from megatron_ar3po.reuse.resharding import open_sources, reshard_one
from megatron_ar3po.reuse.shards import ShardSet, current_set, has_answers, remove_other_sets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardClaim:
    """One rank's shard, whole and of this run, and nobody else's until `release`. What the folder holds has not changed
    yet: a run that is refused after this has done nothing to its store."""

    folder: Path
    dp_rank: int
    shard_set: ShardSet  # of the shard
    source: ShardSet | None  # another size, from which it will be resharded
    committed: int  # no rollback goes to before the end of this step
    run_seed: int
    fingerprint: Fingerprint
    owner: ShardOwner

    @property
    def path(self) -> Path:
        return self.shard_set.path(self.folder, self.dp_rank)

    def check_rollback(self, cursor: Mapping[str, int]) -> None:
        """Raises where the store cannot be as of the end of step `cursor['step']`."""
        step = cursor.get("step", 0)
        check_committed(self.path, self.committed, step)
        is_lost = self.source is None and not self.path.exists()
        if step > 0 and is_lost and has_answers(self.folder, self.shard_set):
            raise ReuseStoreError(
                f"{self.path} is missing while other shards of {self.folder} hold answers. Bring the file back, or "
                "remove the whole folder to resume with an empty store."
            )

    def open(self) -> OpenShard:
        """From here on the folder changes. A failure releases the shard."""
        try:
            if self.source is not None:
                _check_no_writers(self.source.paths(self.folder))
                reshard_one(
                    self.folder,
                    self.source,
                    self.shard_set,
                    dp_rank=self.dp_rank,
                    fingerprint=self.fingerprint,
                )
            is_new = not self.path.exists()
            if is_new:
                self._create()
            connection = open_for_writing(self.path)
            self._note_verdicts(connection)
            # While others of a new size are missing, their leaders are still at it: the old set stays until then.
            if not self.shard_set.missing(self.folder):
                removed = remove_other_sets(self.folder, self.shard_set)
                if removed:
                    logger.info("reuse store: removed obsolete shards %s", ", ".join(removed))
        except BaseException:  # an interrupt too: nobody else would let go of the shard
            self.release()
            raise
        return OpenShard(connection=connection, path=self.path, owner=self.owner, is_new=is_new)

    def _note_verdicts(self, connection: sqlite3.Connection) -> None:
        """What its responses are graded with, in a shard that does not say it, or that is empty."""
        with explain_errors(self.path):
            noted = read_state(connection, self.path).fingerprint
            if self.fingerprint.verdicts and noted.verdicts != self.fingerprint.verdicts:
                with transaction(connection, self.path):
                    write_fingerprint(
                        connection, replace(noted, verdicts=dict(self.fingerprint.verdicts))
                    )

    def release(self) -> None:
        """A second call does nothing."""
        self.owner.release()

    def _create(self) -> None:
        building = self.path.with_suffix(".building")
        with explain_errors(self.path):
            empty = create_database(
                building,
                fingerprint=self.fingerprint,
                dp_rank=self.dp_rank,
                dp_size=self.shard_set.dp_size,
                hash_seed=self.run_seed,
            )
            seal_database(empty, building, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenShard:
    """Open for writing until `release`."""

    connection: sqlite3.Connection
    path: Path
    owner: ShardOwner
    is_new: bool  # made just now, empty

    def release(self) -> None:
        self.connection.close()
        self.owner.release()


def claim_shard(
    folder: Path, *, dp_rank: int, dp_size: int, run_seed: int, fingerprint: Fingerprint
) -> ShardClaim:
    """Every leader calls it, and none opens before all have claimed. Raises `ReuseStoreError` where the shard has
    another writer, is damaged, or holds another run's answers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReuseStoreError(
            f"cannot make the folder {folder}: {error.strerror}; choose another run.dir."
        ) from error
    current = current_set(folder, dp_size=dp_size) or ShardSet(1, dp_size)
    is_other_size = current.dp_size != dp_size
    shard_set = ShardSet(current.version + 1, dp_size) if is_other_size else current
    path = shard_set.path(folder, dp_rank)
    owner = ShardOwner(path)
    try:
        if is_other_size:
            _check_no_writers(current.paths(folder))
            with ExitStack() as stack:
                sources = open_sources(stack, current.paths(folder))
                states = [
                    _check_shard(source, name, fingerprint)
                    for source, name in zip(sources, current.paths(folder), strict=True)
                ]
        elif path.exists():
            with closing(open_for_writing(path)) as connection:
                states = [_check_shard(connection, path, fingerprint)]
            _refuse_a_renamed_shard(states[0], path, dp_rank=dp_rank, dp_size=dp_size)
        else:
            states = []
    except BaseException:  # an interrupt too: nobody else would let go of the shard
        owner.release()
        raise
    return ShardClaim(
        folder=folder,
        dp_rank=dp_rank,
        shard_set=shard_set,
        source=current if is_other_size else None,
        committed=max((state.committed for state in states), default=0),
        run_seed=run_seed,
        fingerprint=fingerprint,
        owner=owner,
    )


def check_committed(path: Path, committed: int, step: int) -> None:
    """Raises where a rollback to the end of `step` wants what is gone."""
    if step < committed:
        raise ReuseStoreError(
            f"{path} cannot go back to step {step}: since the checkpoint of step {committed} what earlier steps "
            "evicted is gone. Resume from that checkpoint or a later one, or remove the reuse folder to resume with "
            "an empty store."
        )


def _check_no_writers(shards: Sequence[Path]) -> None:
    """Of another size: a run that uses it, or a command. Leaders of this run only read them."""
    for shard in shards:
        check_no_writer(shard)


def _check_shard(
    connection: sqlite3.Connection, path: Path, fingerprint: Fingerprint
) -> ShardState:
    with explain_errors(path):
        state = read_state(connection, path)
    refuse_strangers(state, fingerprint, path)
    return state


def _refuse_a_renamed_shard(state: ShardState, path: Path, *, dp_rank: int, dp_size: int) -> None:
    if (state.dp_rank, state.dp_size) != (dp_rank, dp_size):
        raise ReuseStoreError(
            f"{path} was made for data-parallel rank {state.dp_rank} of {state.dp_size}: the file was renamed. Give "
            "it its old name; `ar3po reuse reshard` changes the number of shards."
        )
