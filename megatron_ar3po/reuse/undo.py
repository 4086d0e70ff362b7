"""The store as of an earlier step, and what no return will need any more: inside a transaction of the store.

Every row carries the step of its deposit, eviction or loan, so going back deletes what later steps brought and gives
back what they took. What was evicted before the oldest checkpoint that is kept can never be asked for again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from megatron_ar3po.reuse.database import ShardState, recount


def undo_steps_after(connection: sqlite3.Connection, state: ShardState, step: int) -> ShardState:
    """What steps after `step` did is gone. Returns the shard afterwards."""
    later = "SELECT {} FROM arrivals WHERE step > ?"
    for statement in (
        "DELETE FROM loans WHERE step > ?",
        f"DELETE FROM payloads WHERE id IN ({later.format('id')})",
        f"DELETE FROM responses WHERE (prompt, id) IN ({later.format('prompt, id')})",
        "DELETE FROM arrivals WHERE step > ?",
        "UPDATE responses SET evicted_step = NULL WHERE evicted_step > ?",
    ):
        connection.execute(statement, (step,))
    return recount(connection, replace(state, clock=step))


def delete_evicted(connection: sqlite3.Connection, *, up_to: int) -> None:
    """What was evicted in step `up_to` or before, from every table."""
    gone = "(SELECT id FROM responses WHERE evicted_step <= ?)"
    for table, column in (("loans", "response"), ("payloads", "id"), ("arrivals", "id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} IN {gone}", (up_to,))
    connection.execute("DELETE FROM responses WHERE evicted_step <= ?", (up_to,))
