"""From any data-parallel size to any other.

Each new rank builds its own new shard from all old ones, reads them only, and gives it its name when it is whole. The
new set becomes current with its last file (shards.py); only then are the old shards removed. Whatever interrupts this
leaves the old shards whole. Deposits keep their step, so that evictions, loans and a later rollback come out the same
at every size.
"""

from __future__ import annotations

import heapq
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from megatron_ar3po.reuse.database import (
    Fingerprint,
    create_database,
    explained,
    open_for_writing,
    read_state,
    refuse_strangers,
    seal_database,
)
from megatron_ar3po.reuse.owner import OwnerLock
from megatron_ar3po.reuse.shards import ShardSet

logger = logging.getLogger(__name__)


def reshard_one(
    folder: Path, old: ShardSet, new: ShardSet, *, dp_rank: int, fingerprint: Fingerprint | None
) -> None:
    """Builds the shard of `dp_rank` in `new`; does nothing where an interrupted resharding has built it already.
    `fingerprint` is what the run expects; None takes it from the old shards."""
    target = new.path(folder, dp_rank)
    if target.exists():
        return
    with ExitStack() as stack:
        sources = [_open_source(stack, path) for path in old.paths(folder)]
        states = [
            read_state(connection, path)
            for connection, path in zip(sources, old.paths(folder), strict=True)
        ]
        for state, path in zip(states, old.paths(folder), strict=True):
            refuse_strangers(state, fingerprint or states[0].fingerprint, path)
        building = target.with_suffix(".building")
        with explained(building):
            connection = create_database(
                building,
                fingerprint=fingerprint or states[0].fingerprint,
                dp_rank=dp_rank,
                dp_size=new.dp_size,
            )
            try:
                connection.execute("BEGIN")
                num_responses = _copy(sources, connection, dp_rank=dp_rank, dp_size=new.dp_size)
                connection.execute(
                    "UPDATE shard SET clock = ?, committed = ?, num_responses = "
                    "(SELECT COUNT(*) FROM responses WHERE evicted_step IS NULL), "
                    "next_id = (SELECT COALESCE(MAX(id), 0) + 1 FROM payloads)",
                    (max(s.clock for s in states), max(s.committed for s in states)),
                )
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                building.unlink(missing_ok=True)
                raise
            seal_database(connection, building, target)
    logger.info(
        "reuse store: resharded from %d to %d shards: %s holds %d responses", old.dp_size, new.dp_size, target.name,
        num_responses,
    )  # fmt: skip


def _open_source(stack: ExitStack, path: Path) -> sqlite3.Connection:
    """Locked against a writer for as long as the stack lives. Open for writing only to play a crash's journal back."""
    lock = OwnerLock(path, shared=True)
    stack.callback(lock.release)
    return stack.enter_context(closing(open_for_writing(path)))


def _copy(
    sources: list[sqlite3.Connection], target: sqlite3.Connection, *, dp_rank: int, dp_size: int
) -> int:
    """The rows that `dp_rank` owns, in the order of their deposits. Returns their number."""
    for source in sources:
        target.executemany(
            "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)",
            source.execute("SELECT * FROM sessions"),
        )
    merged = heapq.merge(
        *(_owned_rows(i, source, dp_rank, dp_size) for i, source in enumerate(sources))
    )
    num_copied = 0
    for _, source, old_id, prompt in merged:
        num_copied += 1
        _copy_response(sources[source], target, prompt=prompt, old_id=old_id, new_id=num_copied)
    return num_copied


def _owned_rows(
    index: int, source: sqlite3.Connection, dp_rank: int, dp_size: int
) -> Iterator[tuple[int, ...]]:
    """(step, index of the source, id, prompt) of each row whose prompt id is dp_rank modulo dp_size, oldest first.
    The key in the table is the id minus 2^63, and SQLite's % keeps the sign of its left side."""
    owned = f"((prompt % {dp_size}) + {dp_size} + {(1 << 63) % dp_size}) % {dp_size} = {dp_rank}"
    return (
        (step, index, row, prompt)
        for step, row, prompt in source.execute(
            f"SELECT step, id, prompt FROM responses WHERE {owned} ORDER BY id"
        )
    )


def _copy_response(
    source: sqlite3.Connection, target: sqlite3.Connection, *, prompt: int, old_id: int, new_id: int
) -> None:
    """Bytes and checksums as they are: damage done before stays visible."""
    for row in source.execute(
        "SELECT key, prompt_id, details, data, crc FROM prompts WHERE key = ?", (prompt,)
    ):
        target.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?, ?, ?, ?)", row)
    for row in source.execute(
        "SELECT prompt, response_id, step, num_tokens, lottery, evicted_step FROM responses "
        "WHERE prompt = ? AND id = ?",
        (prompt, old_id),
    ):
        target.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", (row[0], new_id, *row[1:])
        )
    for row in source.execute("SELECT details, data, crc FROM payloads WHERE id = ?", (old_id,)):
        target.execute("INSERT INTO payloads VALUES (?, ?, ?, ?)", (new_id, *row))
    for row in source.execute(
        "SELECT step, position, option FROM loans WHERE response = ?", (old_id,)
    ):
        target.execute("INSERT INTO loans VALUES (?, ?, ?, ?)", (new_id, *row))
