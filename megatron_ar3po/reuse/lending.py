"""What may be lent now, and what was: the trust policy on the rows of one prompt. Read only.

A response passes when it is of a strictly earlier step, no older than `reuse.max_age_steps`, lent less often than
`reuse.max_times_borrowed`, not lent in this step already and, where the servers were asked, likely enough for
`reuse.min_mean_logprob`. Whatever turns one away is counted.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.reuse.choice import Candidate, LoanRequest
from megatron_ar3po.reuse.codec import DamagedRowError, decode_response, read_payload
from megatron_ar3po.reuse.loans import Loan
from megatron_ar3po.reuse.shards import prompt_key
from megatron_ar3po.types import Response, ScoredResponse

_ROWS = (
    "SELECT r.id, r.step, r.num_tokens, r.lottery, COUNT(l.step), MAX(l.step) "
    "FROM prompts p JOIN responses r ON r.prompt = p.id LEFT JOIN loans l ON l.response = r.id "
    "WHERE p.key = ? AND r.evicted_step IS NULL AND r.step < ? GROUP BY r.prompt, r.id"
)


PendingLoans = dict[int, dict[int, Loan]]  # not written down yet; by row, then by step


def earlier_candidates(
    connection: sqlite3.Connection, request: LoanRequest, pending: PendingLoans
) -> list[Candidate]:
    """What the store holds for the prompt from earlier steps, with the loans so far, written down or not."""
    rows = [
        Candidate(*row)
        for row in connection.execute(_ROWS, (prompt_key(request.prompt_id), request.step))
    ]
    return [_with_pending(row, pending) for row in rows] if pending else rows


def filter_trusted(
    candidates: Sequence[Candidate],
    config: ReuseConfig,
    request: LoanRequest,
    *,
    exclude: Collection[int] = (),
    counts: Counter[str],
) -> list[Candidate]:
    """Those that pass, but for the floor. `exclude`: hash ranks of what must not come."""
    passed = []
    for candidate in candidates:
        if candidate.hash_rank in exclude:
            counts["excluded"] += 1
        elif config.max_age_steps and request.step - candidate.step > config.max_age_steps:
            counts["too_old"] += 1
        elif candidate.last_borrowed_step == request.step:
            counts["lent_in_this_step"] += 1
        elif config.max_times_borrowed and candidate.times_borrowed >= config.max_times_borrowed:
            counts["lent_too_often"] += 1
        else:
            passed.append(candidate)
    return passed


def filter_likely(
    candidates: Sequence[Candidate],
    scores: Mapping[int, float],
    config: ReuseConfig,
    *,
    counts: Counter[str],
) -> list[Candidate]:
    """Those that were scored (by hash rank) and are not below the floor, with their scores."""
    floor = config.min_mean_logprob or float("-inf")
    scored = [
        replace(c, mean_logprob=scores[c.hash_rank]) for c in candidates if c.hash_rank in scores
    ]
    passed = [c for c in scored if c.mean_logprob is not None and c.mean_logprob >= floor]
    counts["below_floor"] += len(scored) - len(passed)
    counts["not_scored"] += len(candidates) - len(scored)
    return passed


def read_response(
    connection: sqlite3.Connection, candidate: Candidate, prompt_id: str
) -> ScoredResponse:
    """Raises `DamagedRowError`."""
    row = read_payload(connection, candidate.id)
    if row is None:
        raise DamagedRowError("its tokens are gone")
    scored = decode_response(row)
    if scored.response.prompt_id != prompt_id:
        raise DamagedRowError(f"its tokens are an answer to {scored.response.prompt_id}")
    return scored


def name_of(connection: sqlite3.Connection, candidate: Candidate) -> str:
    """Its response id, for a message; its payload may be gone."""
    found = connection.execute(
        "SELECT response_id FROM arrivals WHERE id = ?", (candidate.id,)
    ).fetchone()
    return str(found[0]) if found else f"in row {candidate.id}"


def find_named(
    connection: sqlite3.Connection, prompt_id: str, is_wanted: Callable[[str], bool]
) -> list[Response]:
    """Of a prompt, by their ids, evicted ones too. Damaged ones are left out."""
    rows = connection.execute(
        "SELECT r.id, a.response_id FROM prompts p JOIN responses r ON r.prompt = p.id "
        "JOIN arrivals a ON a.id = r.id WHERE p.key = ?",
        (prompt_key(prompt_id),),
    )
    found: list[Response] = []
    for row, name in rows.fetchall():
        payload = read_payload(connection, row) if is_wanted(name) else None
        if payload is not None:
            with suppress(DamagedRowError):
                found.append(decode_response(payload).response)
    return found


def _with_pending(candidate: Candidate, pending: PendingLoans) -> Candidate:
    loans = pending.get(candidate.id)
    if not loans:
        return candidate
    return replace(
        candidate,
        times_borrowed=candidate.times_borrowed + len(loans),
        last_borrowed_step=max(*loans, candidate.last_borrowed_step or 0),
    )
