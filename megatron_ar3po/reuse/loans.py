"""`Loan`: one row of table `loans`, written for each time that a stored response was lent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from megatron_ar3po.update_stats import LoanOutcome

# Of table `loans`, behind the row of the response.
COLUMNS = ("step", "position", "option", "mean_logprob", "drift", "ratio", "clip_frac")
_OUTCOME = ("option", "drift", "ratio", "clip_frac")  # those that a LoanOutcome may tell


@dataclass(frozen=True, slots=True)
class Loan:
    """Where a response went, and what became of it; None where that is not known (yet)."""

    response_id: str
    step: int
    position: int  # of the borrowing group in its step
    option: str  # how it trained: reuse.option, or 'detach' where it had drifted too far
    mean_logprob: float | None = None  # under the policy of that step, where the servers were asked
    drift: float | None = None
    ratio: float | None = None
    clip_frac: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As it stands in an export: by the names of the columns."""
        return {name: getattr(self, name) for name in COLUMNS}

    def with_outcome(self, outcome: LoanOutcome) -> Loan:
        """With those parts that `outcome` tells."""
        told = {name: getattr(outcome, name) for name in _OUTCOME}
        return replace(self, **{name: value for name, value in told.items() if value is not None})


def read_loans(connection: sqlite3.Connection, row: int, response_id: str) -> tuple[Loan, ...]:
    """All loans of the response in `row`, oldest first."""
    found = connection.execute(
        f"SELECT {', '.join(COLUMNS)} FROM loans WHERE response = ? ORDER BY step", (row,)
    )
    return tuple(Loan(response_id, *values) for values in found)


def insert_loans(connection: sqlite3.Connection, loans: Iterable[tuple[int, Loan]]) -> None:
    """`loans`: each with the row of its response in this shard."""
    marks = ", ".join("?" * (1 + len(COLUMNS)))
    connection.executemany(
        f"INSERT INTO loans (response, {', '.join(COLUMNS)}) VALUES ({marks})",
        ((row, *loan.as_json().values()) for row, loan in loans),
    )
