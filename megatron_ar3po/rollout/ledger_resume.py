"""The ledger where a killed or stopped run is taken up: what its later steps had cost stays, whoever does them again.

Three things are not in the rows that a dead process has left, and are written down here:

- of a step that it had not ended there is an intent and no row of a prompt. What was generated for it and answered is
  known from the response log, what was in flight is bounded: one row of kind `cut_short`;
- a file that is gone takes its rows along: the checkpoint knows the run's total, and the difference becomes one row of
  kind `unlisted`;
- rows of steps that are done again are marked `abandoned`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.rollout.ledger_file import abandon_rows_after, rows_of_run
from megatron_ar3po.sampling_cost import NOTHING, SamplingCost, Spent, cost_of, generated_anew_in

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
_FIRST_FILE = "dp00.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """Of a whole run, where a process takes it up."""

    cost: SamplingCost
    num_sessions: int  # processes before this one whose servers are in the ledger


def take_up_ledger(
    folder: Path, *, step: int, total: Spent, logged: Mapping[int, Spent]
) -> LedgerState:
    """A run goes on after `step`, where its checkpoint says that `total` had been generated; `logged`: what the
    response log holds of the later steps, whoever drew it. Rank 0, before any ledger is open."""
    rows = rows_of_run(folder)
    added = [*_find_unlisted(rows, step, total), *_find_cut_short(rows, step, logged)]
    # The rows that are added go before any intent is marked: a kill in between may bound what was in flight twice, not
    # lose it.
    if added:
        folder.mkdir(parents=True, exist_ok=True)
    abandon_rows_after(folder / _FIRST_FILE, step, added)
    for path in sorted({*folder.glob("dp*.jsonl")} - {folder / _FIRST_FILE}):
        abandon_rows_after(path, step)
    rows = rows_of_run(folder)
    sessions = [row["session"] for row in rows if "session" in row]
    return LedgerState(cost=cost_of(rows), num_sessions=max(sessions, default=-1) + 1)


def _find_unlisted(rows: Sequence[Row], step: int, total: Spent) -> list[dict[str, Any]]:
    """Rows that the checkpoint has seen and that are there no more."""
    seen = [row for row in rows if row.get("abandoned") or row.get("step", 0) <= step]
    there = cost_of(seen).total
    missing = _at_least_nothing(total - there)
    if missing == NOTHING:
        return []
    logger.warning(
        "RUN/ledger holds %d responses of %d tokens up to step %d, and the checkpoint says %d of %d: rows are gone. "
        "What is missing stays counted.",
        *(there.responses, there.tokens, step, total.responses, total.tokens),
    )
    return [{"kind": "unlisted", "step": step, **_spent_fields(missing)}]


def _find_cut_short(
    rows: Sequence[Row], step: int, logged: Mapping[int, Spent]
) -> list[dict[str, Any]]:
    """Of each later step that a dead process has begun and not ended: what of it is in no row yet, and what may have
    been in flight. Rows of processes that died earlier are marked as abandoned already."""
    later = [row for row in rows if row.get("step", 0) > step]
    written: dict[int, Spent] = {}
    for row in later:
        if row["kind"] in ("prompt", "cut_short"):
            written[row["step"]] = written.get(row["step"], NOTHING) + generated_anew_in(row)
    ended = {
        (row["step"], row["position"])
        for row in later
        if row["kind"] == "prompt" and not row.get("abandoned")
    }
    begun: dict[int, Spent] = {}
    for row in later:
        if row["kind"] != "intent" or row.get("abandoned"):
            continue
        if not any((row["step"], position) in ended for position in row["positions"]):
            most = Spent(
                responses=row.get("responses_max", 0), tokens=row.get("response_tokens_max", 0)
            )
            begun[row["step"]] = begun.get(row["step"], NOTHING) + most
    found = []
    for of_step in sorted({*begun, *logged}):
        answered = _at_least_nothing(logged.get(of_step, NOTHING) - written.get(of_step, NOTHING))
        in_flight = _at_least_nothing(begun.get(of_step, NOTHING) - answered)
        if of_step > step and (of_step in begun or answered != NOTHING):
            row = {"kind": "cut_short", "step": of_step, "abandoned": True}
            row |= _spent_fields(answered)
            row |= {"in_flight_responses_max": in_flight.responses}
            row |= {"in_flight_tokens_max": in_flight.tokens}
            found.append(row)
    return found


def _spent_fields(spent: Spent) -> dict[str, int]:
    return {"responses": spent.responses, "response_tokens": spent.tokens}


def _at_least_nothing(spent: Spent) -> Spent:
    return Spent(responses=max(0, spent.responses), tokens=max(0, spent.tokens))
