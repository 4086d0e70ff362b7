"""The reuse store: correct answers of earlier steps, kept on disk, lent to prompts that are unsolved now.

One shard per data-parallel rank lies under `RUN/reuse/`; each is one SQLite file with one writer, the leader of that
replica. The promises, each held by a test:

- A deposit that returned is on disk, also after SIGKILL or a power loss. A deposit that did not return is there
  whole or not at all.
- A borrowed response comes from a strictly earlier step, is bit for bit what was deposited, and its choice is a pure
  function of (run seed, prompt, step, position) and of what the store holds.
- `rollback(cursor)` brings the store back to the state it had at the end of that step: deposits, evictions and loans.
- Data of another run, model or tokenizer, a damaged file or a second writer is refused with one clear sentence.

    store.py       ReuseStore: deposit, borrow, cursor, rollback, commit_checkpoint
    opening.py     one rank's shard is claimed: made, resharded, refused
    undo.py        the store as of an earlier step
    null_store.py  NullStore, when reuse is off
    deposits.py    a step's answers become rows: who stays, who makes room
    lending.py     what may be lent (the trust policy) and what was
    choice.py      which one is lent, which ones stay: pure functions; a user's own choice
    lender.py      Lender: a step's unsolved groups borrow; the servers are asked where the store wants to know
    recent_rows.py the rows that trained in the last steps, on disk; replayer.py: which of them train again
    database.py    the SQLite file: schema, durability settings, errors in plain words
    codec.py       responses and prompts as rows: compact integers, exact log-probs, a checksum
    owner.py       one writer per shard: a note that says who it is
    shards.py      the files of a folder; which of them are current
    resharding.py  from any DP size to any other
    inspection.py  reading a store beside a running job: stats, rows, verify
    maintenance.py changing a store while no job runs: gc, regrade, reshard
    importing.py   the same: responses of a file become stored ones
    cli.py         `ar3po reuse ...`; looking.py and exporting.py have its reading verbs

Imports go down to the ground floor and to algorithm/. Verifiers and servers come in as callables and ports.
"""
