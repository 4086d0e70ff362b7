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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ar3po.reuse.codec import EncodedRow, read_payload
from megatron_ar3po.reuse.database import (
    Fingerprint,
    create_database,
    explain_errors,
    open_for_writing,
    read_state,
    recount,
    refuse_strangers,
    seal_database,
    write_state,
)
from megatron_ar3po.reuse.loans import Loan, insert_loans, read_loans
from megatron_ar3po.reuse.shards import ShardSet

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """All that the tables hold of one response, without the numbers that it has in its shard."""

    prompt: Row  # key, prompt_id, details, data, crc
    response_id: str
    step: int
    num_tokens: int
    hash_rank: int
    evicted_step: int | None
    payload: EncodedRow
    loans: Sequence[Loan]


class ShardBuilder:
    """A new shard in the making. It gets its name in `seal`; used as a context manager, anything else removes it."""

    def __init__(
        self,
        path: Path,
        *,
        fingerprint: Fingerprint,
        dp_rank: int,
        dp_size: int,
        hash_seed: int,
    ) -> None:
        self._path = path
        self._building = path.with_suffix(".building")
        with explain_errors(self._building):
            self._connection = create_database(
                self._building,
                fingerprint=fingerprint,
                dp_rank=dp_rank,
                dp_size=dp_size,
                hash_seed=hash_seed,
            )
            self._connection.execute("BEGIN")
        self._prompts: dict[int, int] = {}  # id by key
        self.num_rows = 0

    def __enter__(self) -> ShardBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._building.unlink(missing_ok=True)  # gone already after `seal`

    def add_sessions(self, rows: Iterable[Row]) -> None:
        self._connection.executemany("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)", rows)

    def add(self, row: StoredRow) -> None:
        """One response, behind those that came before."""
        self.num_rows += 1
        new, payload = self.num_rows, row.payload
        with explain_errors(self._building):
            execute = self._connection.execute
            prompt = self._prompts.get(row.prompt[0])
            if prompt is None:
                prompt = self._prompts[row.prompt[0]] = len(self._prompts) + 1
                execute(
                    "INSERT INTO prompts VALUES (?, ?, ?, CAST(? AS TEXT), ?, ?)",
                    (prompt, *row.prompt),
                )
            execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    prompt,
                    new,
                    row.step,
                    row.num_tokens,
                    payload.num_bytes,
                    row.hash_rank,
                    row.evicted_step,
                ),
            )
            execute(
                "INSERT INTO arrivals VALUES (?, ?, ?, ?)", (new, prompt, row.step, row.response_id)
            )
            execute(
                "INSERT INTO payloads VALUES (?, CAST(? AS TEXT), ?, ?)",
                (new, payload.details, payload.data, payload.crc),
            )
            insert_loans(self._connection, ((new, loan) for loan in row.loans))

    def seal(self, *, clock: int, committed: int) -> None:
        with explain_errors(self._building):
            state = read_state(self._connection, self._building)
            state = replace(state, clock=clock, committed=committed, next_id=self.num_rows + 1)
            write_state(self._connection, recount(self._connection, state))
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
            ShardBuilder(
                path,
                fingerprint=expected,
                dp_rank=dp_rank,
                dp_size=new.dp_size,
                hash_seed=states[0].hash_seed,
            )
        )
        with explain_errors(folder):
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
    """For as long as the stack lives; the caller sees to it that nobody writes meanwhile (owner.py). Open for writing
    only to play a crash's journal back."""
    sources = []
    for path in paths:
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
        stored = _row(sources[index], row, prompt)
        if stored is None:  # lost to damage; `verify` tells
            logger.warning("reuse store: a response without its tokens was left behind")
        else:
            builder.add(stored)


def _row(source: sqlite3.Connection, row: int, prompt: int) -> StoredRow | None:
    """None where a part of it is gone."""
    execute = source.execute
    payload = read_payload(source, row)
    prompt_row = execute(
        "SELECT key, prompt_id, CAST(details AS BLOB), data, crc FROM prompts WHERE id = ?",
        (prompt,),
    ).fetchone()
    entry = execute(
        "SELECT a.response_id, r.step, r.num_tokens, r.lottery, r.evicted_step FROM responses r "
        "JOIN arrivals a ON a.id = r.id WHERE r.prompt = ? AND r.id = ?",
        (prompt, row),
    ).fetchone()
    if payload is None or prompt_row is None or entry is None:
        return None
    response_id, step, num_tokens, hash_rank, evicted_step = entry
    return StoredRow(
        prompt=prompt_row,
        response_id=response_id,
        step=step,
        num_tokens=num_tokens,
        hash_rank=hash_rank,
        evicted_step=evicted_step,
        payload=payload,
        loans=read_loans(source, row, response_id),
    )


def _owned_rows(
    index: int, source: sqlite3.Connection, dp_rank: int, dp_size: int
) -> Iterator[tuple[int, ...]]:
    """(step, index of the source, id, prompt) of each row whose prompt id is dp_rank modulo dp_size, oldest first.
    The key in the table is the id minus 2^63, and SQLite's % keeps the sign of its left side."""
    owned = f"((p.key % {dp_size}) + {dp_size} + {(1 << 63) % dp_size}) % {dp_size} = {dp_rank}"
    found = source.execute(
        f"SELECT a.step, a.id, a.prompt FROM arrivals a JOIN prompts p ON p.id = a.prompt WHERE {owned} ORDER BY a.id"
    )
    return ((step, index, row, prompt) for step, row, prompt in found)
