"""Claiming one rank's shard for writing: made empty, or resharded from another DP size, where needed."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from megatron_ar3po.reuse.database import (
    Fingerprint,
    ReuseStoreError,
    create_database,
    explain_errors,
    open_for_writing,
    read_state,
    refuse_strangers,
    seal_database,
)
from megatron_ar3po.reuse.owner import OwnerLock
from megatron_ar3po.reuse.resharding import reshard_one
from megatron_ar3po.reuse.shards import ShardSet, current_set, remove_other_sets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedShard:
    """Open for writing, and nobody else's until it is released."""

    connection: sqlite3.Connection
    path: Path
    owner: OwnerLock
    was_made_now: bool

    def release(self) -> None:
        self.connection.close()
        self.owner.release()


def claim_shard(
    folder: Path, *, dp_rank: int, dp_size: int, run_seed: int, fingerprint: Fingerprint
) -> ClaimedShard:
    """Every leader calls it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReuseStoreError(
            f"cannot make the folder {folder}: {error.strerror}; choose another run.dir."
        ) from error
    shard_set, removed = _set_to_open(
        folder, dp_rank=dp_rank, dp_size=dp_size, fingerprint=fingerprint
    )
    if removed:
        logger.info("reuse store: removed obsolete shards %s", ", ".join(removed))
    path = shard_set.path(folder, dp_rank)
    owner = OwnerLock(path)
    try:
        is_new = not path.exists()
        if is_new:
            building = path.with_suffix(".building")
            with explain_errors(path):
                empty = create_database(
                    building,
                    fingerprint=fingerprint,
                    dp_rank=dp_rank,
                    dp_size=dp_size,
                    hash_seed=run_seed,
                )
                seal_database(empty, building, path)
        connection = open_for_writing(path)
        try:
            _refuse_a_strangers_shard(
                connection, path, fingerprint, dp_rank=dp_rank, dp_size=dp_size
            )
        except BaseException:
            connection.close()
            raise
    except BaseException:
        owner.release()
        raise
    return ClaimedShard(connection=connection, path=path, owner=owner, was_made_now=is_new)


def _refuse_a_strangers_shard(
    connection: sqlite3.Connection,
    path: Path,
    fingerprint: Fingerprint,
    *,
    dp_rank: int,
    dp_size: int,
) -> None:
    with explain_errors(path):
        state = read_state(connection, path)
    refuse_strangers(state, fingerprint, path)
    if (state.dp_rank, state.dp_size) != (dp_rank, dp_size):
        raise ReuseStoreError(
            f"{path} was made for data-parallel rank {state.dp_rank} of {state.dp_size}: the file was renamed. Give "
            "it its old name; `ar3po reuse reshard` changes the number of shards."
        )


def _set_to_open(
    folder: Path, *, dp_rank: int, dp_size: int, fingerprint: Fingerprint
) -> tuple[ShardSet, list[str]]:
    """The set this rank opens, its own shard resharded if the current set has another size; names of removed files."""
    current = current_set(folder, dp_size=dp_size)
    if current is None:
        return ShardSet(1, dp_size), []
    if current.dp_size != dp_size:
        target = ShardSet(current.version + 1, dp_size)
        reshard_one(folder, current, target, dp_rank=dp_rank, fingerprint=fingerprint)
        if target.missing(
            folder
        ):  # the leaders of the missing ones are still at it: the old set stays until then
            return target, []
        current = target
    return current, remove_other_sets(folder, current)
