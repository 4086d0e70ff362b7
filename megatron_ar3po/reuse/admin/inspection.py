"""Reading a store: counts, rows, checks. Changes nothing and is safe beside a running job.

A reader's lock keeps the writer from committing, so nothing here reads for long in one go: rows come in small pages,
and no lock is held while the caller prints. What the pages show may therefore differ by a step from page to page.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.response_json import provenance_json, verdict_json
from megatron_ar3po.reuse.choice import hash_rank_of
from megatron_ar3po.reuse.codec import (
    DamagedRowError,
    EncodedRow,
    decode_prompt,
    decode_response,
    read_payload,
)
from megatron_ar3po.reuse.database import (
    SQLITE_ERRORS,
    ReuseStoreError,
    explain_errors,
    open_for_reading,
    open_for_writing,
    read_state,
    recount,
)
from megatron_ar3po.reuse.loans import Loan, read_loans
from megatron_ar3po.reuse.owner import ShardOwner, owner_of
from megatron_ar3po.reuse.shards import current_set, prompt_key, shard_sets
from megatron_ar3po.types import Prompt, ScoredResponse

_PAGE_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """One stored response with all that is known of it."""

    shard: Path
    scored: ScoredResponse
    prompt: Prompt
    deposit_step: int
    evicted_step: int | None
    loans: tuple[Loan, ...]
    sampler: dict[str, Any]
    session: int
    hash_rank: int

    @property
    def last_borrowed_step(self) -> int | None:
        return max((loan.step for loan in self.loans), default=None)

    def as_json(self) -> dict[str, Any]:
        """The line of an export; `ar3po reuse import` reads it back."""
        response = self.scored.response
        return {
            "response_id": response.response_id,
            "prompt_id": response.prompt_id,
            "prompt": {
                "token_ids": list(self.prompt.token_ids),
                "text": self.prompt.text,
                "ground_truth": self.prompt.ground_truth,
                "source": self.prompt.source,
                "metadata": dict(self.prompt.metadata),
            },
            "token_ids": response.token_ids.tolist(),
            "logprobs": response.logprobs.tolist(),
            **provenance_json(response),
            "verdict": verdict_json(self.scored.verdict),
            "sampler": self.sampler,
            "deposit_step": self.deposit_step,
            "evicted_step": self.evicted_step,
            "times_borrowed": len(self.loans),
            "last_borrowed_step": self.last_borrowed_step,
            "loans": [loan.as_json() for loan in self.loans],
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a shard that is not as it was written."""

    shard: Path
    row: int | None  # payloads.id
    what: str

    def __str__(self) -> str:
        return f"{self.shard.name}{'' if self.row is None else f', row {self.row}'}: {self.what}"


def find_shards(path: Path) -> list[Path]:
    """The shards that `path` means: one file, a reuse folder, or a run's folder."""
    if path.is_file():
        return [path]
    folder = path / "reuse" if (path / "reuse").is_dir() else path
    sets = shard_sets(folder) if folder.is_dir() else []
    if not sets:
        raise ReuseStoreError(
            f"there is no reuse store at {path}; name a run's folder, its reuse folder, or one shard file."
        )
    return (current_set(folder) or sets[-1]).paths(folder)


def open_shard(path: Path) -> sqlite3.Connection:
    """Read-only. A journal that a killed writer left is played back first; a reader could not."""
    try:
        return open_for_reading(path)
    except ReuseStoreError as error:
        if "cannot be written to" not in str(error):
            raise
    owner = ShardOwner(path)
    try:
        open_for_writing(path).close()
    finally:
        owner.release()
    return open_for_reading(path)


def shard_stats(path: Path) -> dict[str, Any]:
    """Counts of one shard. `raw_bytes` is what the alive tokens and log-probs take as int32 and float32."""
    with closing(open_shard(path)) as connection, explain_errors(path):
        state = read_state(connection, path)
        alive, tokens, oldest, newest, longest = connection.execute(
            "SELECT COUNT(*), COALESCE(SUM(num_tokens), 0), MIN(step), MAX(step), MAX(num_tokens) FROM responses "
            "WHERE evicted_step IS NULL"
        ).fetchone()
        (prompts,) = connection.execute(
            "SELECT COUNT(DISTINCT prompt) FROM responses WHERE evicted_step IS NULL"
        ).fetchone()
        (evicted,) = connection.execute(
            "SELECT COUNT(*) FROM responses WHERE evicted_step IS NOT NULL"
        ).fetchone()
        loans, borrowed = connection.execute(
            "SELECT COUNT(*), COUNT(DISTINCT response) FROM loans"
        ).fetchone()
    return {
        "shard": path.name,
        "run": state.fingerprint.run,
        "model": state.fingerprint.model,
        "tokenizer": state.fingerprint.tokenizer,
        "clock_step": state.clock,
        "committed_step": state.committed,
        "responses": alive,
        "prompts": prompts,
        "tokens": tokens,
        "max_tokens": longest or 0,
        "oldest_step": oldest,
        "newest_step": newest,
        "evicted_kept": evicted,
        "loans": loans,
        "responses_borrowed": borrowed,
        "bytes": path.stat().st_size,
        "raw_bytes": 8 * tokens,
        "writer": owner_of(path),
    }


def stored_responses(path: Path, *, prompt_id: str = "") -> Iterator[StoredResponse]:
    """All sound rows of one shard, oldest first; `prompt_id` (or its beginning) chooses. Raises at a damaged row."""
    for row in read_rows(path):
        if isinstance(row, Problem):
            raise ReuseStoreError(f"{row}. `ar3po reuse export --salvage` reads what is sound.")
        if row.scored.response.prompt_id.startswith(prompt_id):
            yield row


def find_response(path: Path, response_id: str) -> StoredResponse:
    """A response by its id, or by the beginning of it where that is unique."""
    found = []
    for shard in find_shards(path):
        with closing(open_shard(shard)) as connection, explain_errors(shard):
            escaped = response_id.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            ids = connection.execute(
                "SELECT id FROM arrivals WHERE response_id LIKE ? ESCAPE '\\' LIMIT 10",
                (f"{escaped}%",),
            ).fetchall()
            found += [_read_row(connection, shard, row) for (row,) in ids]
    exact = [
        r
        for r in found
        if isinstance(r, StoredResponse) and r.scored.response.response_id == response_id
    ]
    if len(exact or found) != 1:
        names = ", ".join(
            r.scored.response.response_id for r in found if isinstance(r, StoredResponse)
        )
        raise ReuseStoreError(
            f"{len(found)} stored responses begin with '{response_id}'{': ' + names if names else ''}; "
            "`ar3po reuse ls` lists them all."
        )
    (row,) = exact or found
    if isinstance(row, Problem):
        raise ReuseStoreError(f"{row}.")
    return row


def verify_shard(path: Path) -> Iterator[Problem]:
    """Everything that is not as it was written: the checksum of every row, the agreement of the tables, and, while no
    run writes to the shard, the structure of the file."""
    try:
        connection = open_shard(path)
    except ReuseStoreError as error:
        yield Problem(path, None, str(error))
        return
    with closing(connection):
        if owner_of(path) is None:  # it reads the whole file under one lock
            yield from _check_structure(connection, path)
        num_alive = 0
        for row in read_rows(path):
            if isinstance(row, Problem):
                yield row
            else:
                num_alive += row.evicted_step is None
        if owner_of(path) is None:
            yield from _check_totals(connection, path, num_alive)


def _check_structure(connection: sqlite3.Connection, path: Path) -> Iterator[Problem]:
    try:
        for (line,) in connection.execute("PRAGMA integrity_check(20)").fetchall():
            if line != "ok":
                yield Problem(path, None, line)
    except SQLITE_ERRORS as error:  # a page that cannot be read at all is a finding too
        yield Problem(path, None, f"the file's structure cannot be read: {error}")


def _check_totals(connection: sqlite3.Connection, path: Path, num_alive: int) -> Iterator[Problem]:
    try:
        state = read_state(connection, path)
        (orphans,) = connection.execute(
            "SELECT COUNT(*) FROM responses WHERE id NOT IN (SELECT id FROM payloads)"
        ).fetchone()
        counted = recount(connection, state)
    except SQLITE_ERRORS as error:  # reported like any other damage
        yield Problem(path, None, f"its tables cannot be read: {error}")
        return
    if orphans:
        yield Problem(path, None, f"{orphans} responses have lost their tokens")
    if state.num_responses != num_alive:
        yield Problem(
            path, None, f"its counter says {state.num_responses} responses, {num_alive} are sound"
        )
    if state.num_bytes != counted.num_bytes:
        yield Problem(
            path, None, f"its counter says {state.num_bytes} bytes, its rows {counted.num_bytes}"
        )
    if state.oldest_id > counted.oldest_id:
        yield Problem(path, None, f"it takes row {counted.oldest_id} for evicted")


def read_rows(path: Path) -> Iterator[StoredResponse | Problem]:
    """Every row of one shard, damaged ones as problems, in pages with no lock between them. Where a page of the file
    cannot be read, its rows are tried one by one."""
    with closing(open_shard(path)) as connection:
        last, end = 0, _last_id(connection, path)
        while last < end:
            try:
                ids = [
                    row
                    for (row,) in connection.execute(
                        "SELECT id FROM payloads WHERE id > ? ORDER BY id LIMIT ?",
                        (last, _PAGE_ROWS),
                    ).fetchall()
                ]
            except SQLITE_ERRORS:  # damaged here: probe each id of the page
                ids = list(range(last + 1, min(last + _PAGE_ROWS, end) + 1))
            if not ids:
                return
            rows = [_read_row(connection, path, row) for row in ids]
            yield from (row for row in rows if row is not None)
            last = ids[-1]


def _last_id(connection: sqlite3.Connection, path: Path) -> int:
    try:
        return read_state(connection, path).next_id - 1
    except (
        sqlite3.DatabaseError,
        ReuseStoreError,
    ):  # damaged there: no more rows than 64 bytes each
        return path.stat().st_size // 64


def _read_row(
    connection: sqlite3.Connection, shard: Path, row: int
) -> StoredResponse | Problem | None:
    """One row, None where there is none (a gap left by a deletion)."""
    try:
        encoded = read_payload(connection, row)
        if encoded is None:
            return None
        scored = decode_response(encoded)
        number, prompt = _read_prompt(connection, scored.response.prompt_id)
        fields = json.loads(encoded.details)
        step, evicted_step, hash_rank = _read_table_entry(
            connection, (number, row), scored, fields["deposit_step"], encoded.num_bytes
        )
        sampler = connection.execute(
            "SELECT sampler FROM sessions WHERE id = ?", (fields["session"],)
        ).fetchone()
        return StoredResponse(
            shard=shard,
            scored=scored,
            prompt=prompt,
            deposit_step=step,
            evicted_step=evicted_step,
            loans=read_loans(connection, row, scored.response.response_id),
            sampler=json.loads(sampler[0]) if sampler else {},
            session=fields["session"],
            hash_rank=hash_rank,
        )
    except (DamagedRowError, sqlite3.DatabaseError, ValueError, TypeError) as error:
        # Whatever a damaged byte does to SQLite, to JSON or to UTF-8: it is this row's problem and nobody else's.
        return Problem(shard, row, str(error))


def _read_prompt(connection: sqlite3.Connection, prompt_id: str) -> tuple[int, Prompt]:
    """With its number in this shard."""
    found = connection.execute(
        "SELECT id, CAST(details AS BLOB), data, crc FROM prompts WHERE key = ?",
        (prompt_key(prompt_id),),
    ).fetchone()
    if found is None:
        raise DamagedRowError(f"its prompt {prompt_id} is gone")
    prompt = decode_prompt(EncodedRow(*found[1:]))
    if prompt.prompt_id != prompt_id:
        raise DamagedRowError(f"its prompt is {prompt.prompt_id} instead of {prompt_id}")
    return found[0], prompt


def _read_table_entry(
    connection: sqlite3.Connection,
    key: tuple[int, int],
    scored: ScoredResponse,
    deposit_step: int,
    num_bytes: int,
) -> tuple[int, int | None, int]:
    """(step, evicted_step, hash rank) of the response with `key` (prompt, row). What the tables say of it is held
    against what the checksum protects."""
    response = scored.response
    found = connection.execute(
        "SELECT CAST(a.response_id AS BLOB), a.prompt, a.step, r.step, r.num_tokens, r.num_bytes, r.evicted_step, "
        "r.lottery FROM responses r JOIN arrivals a ON a.id = r.id WHERE r.prompt = ? AND r.id = ?",
        key,
    ).fetchone()
    if found is None:
        raise DamagedRowError("it is missing in table 'responses' or 'arrivals'")
    expected = (response.response_id.encode(), key[0], deposit_step, deposit_step)
    if found[:6] != (*expected, response.num_tokens, num_bytes):
        raise DamagedRowError(f"tables 'responses' and 'arrivals' say {found[:6]} of it")
    (seed,) = connection.execute("SELECT lottery_seed FROM shard").fetchone()
    if found[7] != hash_rank_of(seed, response.response_id):
        raise DamagedRowError(f"its hash rank is {found[7]}")
    return found[3], found[6], found[7]
