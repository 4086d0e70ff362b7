"""The SQLite file of one shard: schema, durability settings, and its errors in plain words.

The settings are chosen for local disks and shared file systems (NFS, Lustre) alike:

- A rollback journal, not WAL: WAL needs shared memory between processes, which a network file system has not.
- `journal_mode=TRUNCATE` with `synchronous=FULL`: a commit ends by truncating the journal *and syncing it*. With
  DELETE the unlink is not synced, and a power loss could bring the journal back and undo an acknowledged deposit.
- Normal locking: readers (`mode=ro`) come in between two writes; each side waits for the other with a time limit.
- No memory map: a truncated file would be a SIGBUS instead of an error.
- A fixed page cache: memory does not grow with the store.

Tables: a deposit appends to `payloads`, `arrivals` and (for new prompts) `prompts`, in the order of their ids, so it
touches old pages of one table only: `responses`, small and clustered by prompt, where one page answers "what is there
for this prompt". A row of `responses` is alive while `evicted_step` is NULL; an evicted row stays until a checkpoint
commits, so that a rollback can bring it back.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x41523350  # "AR3P"
SCHEMA_VERSION = 2
PAGE_BYTES = 8192  # docs/reuse_store.md has the times of several sizes
CACHE_KIB = 32 * 1024
BUSY_TIMEOUT_S = 60.0

SCHEMA = """
CREATE TABLE shard (              -- one row: what this file is, and where it stands
    fingerprint TEXT NOT NULL,    -- JSON: run, model, tokenizer, settings of the verifier
    dp_rank INTEGER NOT NULL,
    dp_size INTEGER NOT NULL,
    created TEXT NOT NULL,
    lottery_seed INTEGER NOT NULL, -- of the run that made it: a response's hash rank never changes
    clock INTEGER NOT NULL,       -- the newest step that wrote here
    committed INTEGER NOT NULL,   -- no rollback goes to before the end of this step
    next_id INTEGER NOT NULL,     -- id of the next response
    oldest_id INTEGER NOT NULL,   -- no response with a smaller id is alive
    num_responses INTEGER NOT NULL, -- alive
    num_bytes INTEGER NOT NULL    -- of the payloads of those
);
CREATE TABLE sessions (           -- one row per opening for writing
    id INTEGER PRIMARY KEY,
    opened TEXT NOT NULL,
    sampler TEXT NOT NULL         -- JSON: how responses of this session were sampled
);
CREATE TABLE prompts (
    id INTEGER PRIMARY KEY,       -- in the order of arrival
    key INTEGER NOT NULL UNIQUE,  -- first 64 bits of prompt_id, minus 2^63
    prompt_id TEXT NOT NULL,
    details TEXT NOT NULL,
    data BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE responses (
    prompt INTEGER NOT NULL,      -- prompts.id
    id INTEGER NOT NULL,          -- grows with every deposit
    step INTEGER NOT NULL,        -- of the deposit
    num_tokens INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL,   -- of its payload
    lottery INTEGER NOT NULL,     -- its hash rank, of (run seed, response_id): decides who stays
    evicted_step INTEGER,
    PRIMARY KEY (prompt, id)
) WITHOUT ROWID;
CREATE INDEX evicted ON responses (evicted_step) WHERE evicted_step IS NOT NULL;
CREATE TABLE arrivals (           -- from the id of a response to its prompt and its name
    id INTEGER PRIMARY KEY,
    prompt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    response_id TEXT NOT NULL
);
CREATE TABLE payloads (
    id INTEGER PRIMARY KEY,
    details TEXT NOT NULL,
    data BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE loans (
    response INTEGER NOT NULL,    -- responses.id
    step INTEGER NOT NULL,
    position INTEGER NOT NULL,    -- of the borrowing prompt in its step
    option TEXT NOT NULL,         -- how it trained: reuse.option, or 'detach' where its log-probs had drifted too far
    mean_logprob REAL,            -- under the policy of that step, where the servers were asked
    drift REAL,                   -- mean |log-prob recomputed - stored| over its tokens
    ratio REAL,                   -- mean over its tokens, in the update
    clip_frac REAL,               -- share of its tokens that were clipped
    PRIMARY KEY (response, step)  -- a response is lent once in a step
) WITHOUT ROWID;
"""


# Fields of `ShardState` that have another name in the file.
_COLUMNS = {"hash_seed": "lottery_seed"}

# What SQLite raises over a damaged file; its own message may quote bytes that are no UTF-8 any more.
SQLITE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)


class ReuseStoreError(ValueError):
    """The store cannot be used as asked: the message says what was found and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Whose answers a shard holds. `tokenizer_path` is where text can be decoded; it is noted, never compared.
    `verdicts`: the settings that they were graded with, by dotted name; empty where nobody knows, as in a shard of
    0.1.0, and then never compared."""

    run: str
    model: str
    tokenizer: str
    tokenizer_path: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict[str, str])

    def differences(self, other: Fingerprint) -> list[str]:
        """One line for each thing that makes `other` a stranger."""
        return [
            f"{name} '{getattr(other, name)}' (expected '{getattr(self, name)}')"
            for name in ("run", "model", "tokenizer")
            if getattr(self, name) != getattr(other, name)
        ]

    def other_verdicts(self, other: Fingerprint) -> list[tuple[str, str, str]]:
        """(setting, its value there, its value here) of those that both know."""
        return [
            (name, other.verdicts[name], value)
            for name, value in self.verdicts.items()
            if other.verdicts.get(name, value) != value
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """The one row of table `shard`."""

    fingerprint: Fingerprint
    dp_rank: int
    dp_size: int
    hash_seed: int
    clock: int
    committed: int
    next_id: int
    oldest_id: int
    num_responses: int
    num_bytes: int


def create_database(
    path: Path, *, fingerprint: Fingerprint, dp_rank: int, dp_size: int, hash_seed: int
) -> sqlite3.Connection:
    """An empty shard at `path` for bulk writing: not safe against a crash until `seal_database` has renamed it."""
    path.unlink(missing_ok=True)
    connection = _connect(path, mode="rwc")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(SCHEMA)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute(
        "INSERT INTO shard VALUES (?, ?, ?, ?, ?, 0, 0, 1, 1, 0, 0)",
        (
            json.dumps(asdict(fingerprint)),
            dp_rank,
            dp_size,
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            hash_seed,
        ),
    )
    return connection


def seal_database(connection: sqlite3.Connection, building: Path, path: Path) -> None:
    """Close a newly built shard and give it its name in one step: it is there whole, or not at all."""
    connection.close()
    _sync(building)
    os.replace(building, path)
    _sync(path.parent)


def open_for_writing(path: Path) -> sqlite3.Connection:
    connection = _connect(path, mode="rw")
    with explain_errors(path):
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        _check_format(connection, path)
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Safe beside a running job as long as every read is short: a reader that holds its lock keeps the writer out."""
    if not path.exists():
        raise ReuseStoreError(f"there is no shard {path}.")
    connection = _connect(path, mode="ro")
    with explain_errors(path):
        connection.execute("PRAGMA query_only = ON")
        _check_format(connection, path)
    return connection


def read_state(connection: sqlite3.Connection, path: Path) -> ShardState:
    names = [name for name in ShardState.__slots__ if name != "fingerprint"]
    columns = [_COLUMNS.get(name, name) for name in names]
    row = connection.execute(f"SELECT fingerprint, {', '.join(columns)} FROM shard").fetchone()
    if row is None:
        raise ReuseStoreError(_DAMAGED.format(path=path, what="its table 'shard' is empty"))
    fingerprint = Fingerprint(**json.loads(row[0]))
    return ShardState(fingerprint=fingerprint, **dict(zip(names, row[1:], strict=True)))


def write_state(connection: sqlite3.Connection, state: ShardState) -> None:
    """Only the numbers: what a shard is never changes."""
    numbers = ("clock", "committed", "next_id", "oldest_id", "num_responses", "num_bytes")
    connection.execute(
        f"UPDATE shard SET {', '.join(f'{name} = ?' for name in numbers)}",
        [getattr(state, name) for name in numbers],
    )


def recount(connection: sqlite3.Connection, state: ShardState) -> ShardState:
    """With its totals taken from the rows."""
    num_responses, num_bytes, oldest_id = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(num_bytes), 0), MIN(id) FROM responses WHERE evicted_step IS NULL"
    ).fetchone()
    return replace(
        state,
        num_responses=num_responses,
        num_bytes=num_bytes,
        oldest_id=state.next_id if oldest_id is None else oldest_id,
    )


def refuse_strangers(state: ShardState, fingerprint: Fingerprint, path: Path) -> None:
    differences = fingerprint.differences(state.fingerprint)
    if differences:
        raise ReuseStoreError(
            f"{path} holds answers of another {' and '.join(differences)}; they must not train this policy. Use the "
            "run.dir that belongs to this run, or remove the reuse folder to start with an empty store."
        )
    changed = fingerprint.other_verdicts(state.fingerprint)
    if changed and state.next_id > 1:  # it has held responses
        there = " and ".join(f"{name}={old}" for name, old, _ in changed)
        here = " and ".join(f"{name}={new}" for name, _, new in changed)
        raise ReuseStoreError(
            f"{path} holds responses graded with {there}, here it is {here}: their rewards would stand beside rewards "
            "of another kind. Set it back, grade them anew with `ar3po reuse regrade RUN --config YOUR_CONFIG`, or "
            "remove the reuse folder to start with an empty store."
        )


def write_fingerprint(connection: sqlite3.Connection, fingerprint: Fingerprint) -> None:
    connection.execute("UPDATE shard SET fingerprint = ?", (json.dumps(asdict(fingerprint)),))


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing, on disk when it returns."""
    with explain_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """SQLite's short messages become sentences that say what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ReuseStoreError(_DAMAGED.format(path=path, what=error)) from error
    except sqlite3.DatabaseError as error:
        raise ReuseStoreError(_explain(path, str(error))) from error


_DAMAGED = (
    "{path} is damaged ({what}). `ar3po reuse verify` says which rows are sound, `ar3po reuse export --salvage` saves "
    "them; then remove the file and start again or import what was saved."
)


def _explain(path: Path, what: str) -> str:
    lower = what.lower()
    if "malformed" in lower or "not a database" in lower or "no such" in lower:
        return _DAMAGED.format(path=path, what=what)
    if "full" in lower:
        return f"no space left on the disk of {path}; what was deposited before is kept. Free some space and resume."
    if "readonly" in lower:
        return f"{path} cannot be written to ({what}); make it and its folder writable, or choose another run.dir."
    if "locked" in lower:
        return (
            f"{path} stayed locked for {BUSY_TIMEOUT_S:.0f} s; another program holds it open in the middle of a read "
            "or write. Close it and resume."
        )
    if "unable to open" in lower:
        return f"{path} cannot be opened ({what}); check that it exists and that its folder may be written to."
    return f"{path}: SQLite says '{what}'; what was deposited before is kept."


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    with explain_errors(path):
        return sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions are written out: BEGIN IMMEDIATE ... COMMIT
        )


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Ours, of a version we know, and as long as its header says. Plays back a journal left by a crash first."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (num_pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    size = path.stat().st_size
    if size < max(num_pages, 1) * page_bytes:
        what = (
            f"{size} bytes where its header says {max(num_pages, 1) * page_bytes}: it was cut off"
        )
        raise ReuseStoreError(_DAMAGED.format(path=path, what=what))
    if application != APPLICATION_ID:
        raise ReuseStoreError(f"{path} is not a shard of a reuse store; move it away.")
    if version != SCHEMA_VERSION:
        raise ReuseStoreError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}; "
            + (
                "use the newer program that wrote it."
                if version > SCHEMA_VERSION
                else "it cannot be read any more."
            )
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
