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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

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

Row = tuple[Any, ...]


class ShardBuilder:
    """A new shard in the making. It gets its name in `seal`; used as a context manager, anything else removes it."""

    def __init__(self, path: Path, *, fingerprint: Fingerprint, dp_rank: int, dp_size: int) -> None:
        self._path = path
        self._building = path.with_suffix(".building")
        with explained(self._building):
            self._connection = create_database(
                self._building, fingerprint=fingerprint, dp_rank=dp_rank, dp_size=dp_size
            )
            self._connection.execute("BEGIN")
        self.num_rows = 0

    def __enter__(self) -> ShardBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._building.unlink(missing_ok=True)  # gone already after `seal`

    def add_sessions(self, rows: Iterable[Row]) -> None:
        self._connection.executemany("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)", rows)

    def add(self, *, prompt: Row, place: Row, payload: Row, loans: Sequence[Row]) -> None:
        """One response: rows of `prompts`, `responses` without id, `payloads` without id, `loans` without response."""
        self.num_rows += 1
        new = self.num_rows
        with explained(self._building):
            execute = self._connection.execute
            execute("INSERT OR IGNORE INTO prompts VALUES (?, ?, CAST(? AS TEXT), ?, ?)", prompt)
            execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", (place[0], new, *place[1:])
            )
            execute("INSERT INTO payloads VALUES (?, CAST(? AS TEXT), ?, ?)", (new, *payload))
            for loan in loans:
                execute("INSERT INTO loans VALUES (?, ?, ?, ?)", (new, *loan))

    def seal(self, *, clock: int, committed: int) -> None:
        with explained(self._building):
            self._connection.execute(
                "UPDATE shard SET clock = ?, committed = ?, next_id = ?, num_responses = "
                "(SELECT COUNT(*) FROM responses WHERE evicted_step IS NULL)",
                (clock, committed, self.num_rows + 1),
            )
            self._connection.execute("COMMIT")
            seal_database(self._connection, self._building, self._path)


def reshard_one(
    folder: Path, old: ShardSet, new: ShardSet, *, dp_rank: int, fingerprint: Fingerprint | None
) -> None:
    """Builds the shard of `dp_rank` in `new`; does nothing where an interrupted resharding has built it already.
    `fingerprint` is what the run expects; None takes it from the old shards."""
    path = new.path(folder, dp_rank)
    if path.exists():
        return
    with ExitStack() as stack:
        sources = open_sources(stack, old.paths(folder))
        states = [
            read_state(source, name)
            for source, name in zip(sources, old.paths(folder), strict=True)
        ]
        expected = fingerprint or states[0].fingerprint
        for state, name in zip(states, old.paths(folder), strict=True):
            refuse_strangers(state, expected, name)
        builder = stack.enter_context(
            ShardBuilder(path, fingerprint=expected, dp_rank=dp_rank, dp_size=new.dp_size)
        )
        with explained(folder):
            _copy(sources, builder, dp_rank=dp_rank, dp_size=new.dp_size)
        builder.seal(clock=max(s.clock for s in states), committed=max(s.committed for s in states))
    logger.info(
        "reuse store: resharded from %d to %d shards; %s holds %d responses",
        old.dp_size,
        new.dp_size,
        path.name,
        builder.num_rows,
    )


def open_sources(stack: ExitStack, paths: Sequence[Path]) -> list[sqlite3.Connection]:
    """Locked against writers for as long as the stack lives. Open for writing only to play a crash's journal back."""
    sources = []
    for path in paths:
        lock = OwnerLock(path, shared=True)
        stack.callback(lock.release)
        sources.append(stack.enter_context(closing(open_for_writing(path))))
    return sources


def _copy(
    sources: list[sqlite3.Connection], builder: ShardBuilder, *, dp_rank: int, dp_size: int
) -> None:
    """The rows that `dp_rank` owns, in the order of their deposits. Bytes and checksums stay as they are: damage done
    before stays visible."""
    for source in sources:
        builder.add_sessions(source.execute("SELECT id, opened, sampler FROM sessions"))
    merged = heapq.merge(
        *(_owned_rows(i, source, dp_rank, dp_size) for i, source in enumerate(sources))
    )
    for _, index, row, prompt in merged:
        execute = sources[index].execute
        payload = execute("SELECT details, data, crc FROM payloads WHERE id = ?", (row,)).fetchone()
        if payload is None:  # lost to damage; `verify` tells
            logger.warning("reuse store: a response without its tokens was left behind")
            continue
        builder.add(
            prompt=execute(
                "SELECT key, prompt_id, details, data, crc FROM prompts WHERE key = ?", (prompt,)
            ).fetchone(),
            place=execute(
                "SELECT prompt, response_id, step, num_tokens, lottery, evicted_step FROM responses "
                "WHERE prompt = ? AND id = ?",
                (prompt, row),
            ).fetchone(),
            payload=payload,
            loans=execute(
                "SELECT step, position, option FROM loans WHERE response = ?", (row,)
            ).fetchall(),
        )


def _owned_rows(
    index: int, source: sqlite3.Connection, dp_rank: int, dp_size: int
) -> Iterator[tuple[int, ...]]:
    """(step, index of the source, id, prompt) of each row whose prompt id is dp_rank modulo dp_size, oldest first.
    The key in the table is the id minus 2^63, and SQLite's % keeps the sign of its left side."""
    owned = f"((prompt % {dp_size}) + {dp_size} + {(1 << 63) % dp_size}) % {dp_size} = {dp_rank}"
    found = source.execute(f"SELECT step, id, prompt FROM responses WHERE {owned} ORDER BY id")
    return ((step, index, row, prompt) for step, row, prompt in found)
