"""`Ledger`: what every prompt cost, as rows of JSON, held against the servers' own counters.

    RUN/ledger/dp00.jsonl
    {"kind": "intent", "step": 3, "prompts": 16, "positions": [...], ...}           before the first request
    {"kind": "prompt", "step": 3, "position": 0, "responses": 8, "outcome": "mixed", ...}
    {"kind": "rescued", "step": 3, "positions": [7]}          their outcome, once a stored response was lent to them
    {"kind": "evaluation", "step": 0, "policy_version": 0, "prompts": 256, "responses": 1024, ...}   after a step
    {"kind": "scoring", "step": 3, "policy_version": 2, "responses": 12, "tokens": 1400, ...}  stored answers weighed
    {"kind": "unused", "step": 3, "aborted_requests": 0, "unused_requests": 0, ...}  work that became no response
    {"kind": "server", "step": 3, "server": "dp0.s0", "restarts": 0, "requests": 512, ...}
    {"kind": "lost_server", "step": 3, "server": "dp0.s0", "restarts": 0, "unreported_requests_max": 9, ...}

Promises: written ahead, an intent on the disk before its requests are sent; one row for each prompt and step, discarded
ones included; evaluation and scoring are classes of their own. After each step two sums must come out, or the run ends
with both numbers: what the rows say is what this client saw the servers answer, and what it saw is what the servers
counted, per process of a server. A process that died reports no more: one row bounds what it may have done. Only
requests that were lost on the way leave room for a difference, and they bound it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.types import (
    CollectedStep,
    ResponseGroup,
    ScoredResponse,
    Scoring,
    StepPrompt,
)
from megatron_ar3po.usage import LedgerError, ServerBook, ServerCounters, ServerUsage

# The room that lost requests leave, by counter; what is not here is not held against anything.
_ROOM = {
    "requests": "lost_requests",
    "prompt_tokens": "lost_prompt_tokens",
    "cached_prompt_tokens": "lost_prompt_tokens",
    "generated_tokens": "lost_generated_tokens",
}


class Ledger:
    """Rows of one replica. `books`: what was counted on both sides, for each server process this client has used."""

    def __init__(
        self,
        path: Path,
        books: Callable[[], Sequence[ServerBook]] = lambda: (),
        *,
        seen: Callable[[], ServerUsage] | None = None,
        check_ownership: Callable[[], None] = lambda: None,
    ) -> None:
        """`seen`: what this client was answered, where other clients use its servers and it uses theirs
        (`servers.routing=global`). `check_ownership`: raises where another process has the run's folder now."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._check_ownership = check_ownership
        self._books = books
        self._seen = seen
        self._answered = ServerUsage()  # what the rows written by this process come to
        self._reported: dict[tuple[str, int], ServerCounters] = {}
        self._lost: dict[tuple[str, int], ServerUsage] = {}

    def open_step(self, prompts: Sequence[StepPrompt], *, step: int, policy_version: int) -> None:
        """Before the first request for `prompts`: whoever finds an intent without prompt rows knows what was begun."""
        row = {
            "kind": "intent",
            "step": step,
            "policy_version": policy_version,
            "prompts": len(prompts),
            "positions": [p.position for p in prompts],
        }
        self._append([row], durably=True)

    def record_step(self, collected: CollectedStep, *, step: int, policy_version: int) -> None:
        rows: list[Mapping[str, Any]] = []
        for is_discarded, groups in ((False, collected.groups), (True, collected.discarded)):
            for group in groups:
                row = prompt_row(
                    group, step=step, policy_version=policy_version, is_discarded=is_discarded
                )
                rows.append(row)
                self._answered += usage_of_responses(
                    [
                        scored
                        for scored in group.sampled
                        if scored.response.response_id not in collected.restored
                    ]
                )
        self._append(rows)
        self.reconcile(step=step)

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        """After the prompts' rows, which are written as soon as they are known: `ledger_file` reads the two as one."""
        rescued = [group.position for group in groups if group.num_borrowed]
        if rescued:
            self._append([{"kind": "rescued", "step": step, "positions": rescued}])

    def record_evaluation(
        self, answers: Sequence[Sequence[ScoredResponse]], *, step: int, policy_version: int
    ) -> None:
        seen = usage_of_responses([scored for answer in answers for scored in answer])
        self._answered += seen
        row = {
            "kind": "evaluation",
            "step": step,
            "policy_version": policy_version,
            "prompts": len(answers),
            "responses": seen.requests,
            "response_tokens": seen.generated_tokens,
        }
        self._append([row])

    def record_scoring(
        self, scorings: Sequence[Scoring], *, prompt_tokens: int, step: int, policy_version: int
    ) -> None:
        """Answers of the reuse store that the servers have read, not sampled. Held against the servers' counters with
        the next step."""
        self._answered += ServerUsage(requests=len(scorings))
        row = {
            "kind": "scoring",
            "step": step,
            "policy_version": policy_version,
            "responses": len(scorings),
            "tokens": sum(len(scoring.logprobs) for scoring in scorings),
            "prompt_tokens": prompt_tokens,
            "cached_prompt_tokens": sum(scoring.num_cached_tokens for scoring in scorings),
            "request_s": round(sum(scoring.elapsed_s for scoring in scorings), 4),
        }
        self._append([row])

    def reconcile(self, *, step: int) -> None:
        """Between rollouts, when no request is in flight."""
        books = self._books()
        if not books:
            return
        rows = [self._check_and_describe(book, step) for book in books]
        seen = self._seen() if self._seen else sum((book.ours for book in books), ServerUsage())
        check_rows(self._answered, seen)
        wasted = ("aborted_", "unused_", "queue_", "lost_")
        totals = {name: n for name, n in asdict(seen).items() if name.startswith(wasted)}
        self._append([{"kind": "unused", "step": step, **totals}, *filter(None, rows)])

    def _check_and_describe(self, book: ServerBook, step: int) -> dict[str, Any] | None:
        key = (book.server, book.restarts)
        if book.theirs is not None:
            check_balance(book.server, book.ours, book.theirs)
            self._reported[key] = book.theirs
            return server_row(book, step)
        if self._lost.get(key) == book.ours:
            return None  # written down already
        self._lost[key] = book.ours
        return lost_server_row(book, self._reported.get(key, ServerCounters()), step)

    def _append(self, rows: Sequence[Mapping[str, Any]], *, durably: bool = False) -> None:
        self._check_ownership()
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            if durably:
                file.flush()
                os.fsync(file.fileno())


def usage_of_responses(responses: Sequence[ScoredResponse]) -> ServerUsage:
    """Responses as the client saw them arrive: cancelled ones are in a group by policy, not by an answer."""
    kept = [scored.response for scored in responses if scored.response.finish_reason != "abort"]
    return ServerUsage(requests=len(kept), generated_tokens=sum(r.num_tokens for r in kept))


def prompt_row(
    group: ResponseGroup, *, step: int, policy_version: int, is_discarded: bool
) -> dict[str, Any]:
    responses = [scored.response for scored in group.sampled]
    return {
        "kind": "prompt",
        "step": step,
        "position": group.position,
        "prompt_id": group.prompt.prompt_id,
        "policy_version": policy_version,
        "outcome": outcome(group),
        "stop_reason": group.stop_reason,
        "discarded": is_discarded,
        "stages": group.num_stages,
        "responses": len(responses),
        "correct": sum(scored.is_correct for scored in group.responses),
        "ungradable": sum(s.verdict.status == "ungradable" for s in group.responses),
        "ungraded": len(group.errored),
        "ungraded_tokens": sum(scored.response.num_tokens for scored in group.errored),
        "prompt_tokens": len(group.prompt.token_ids) * len(responses),
        "cached_prompt_tokens": sum(r.num_cached_tokens for r in responses),
        "response_tokens": sum(r.num_tokens for r in responses),
        "truncated": sum(r.finish_reason == "length" for r in responses),
        "cancelled": sum(r.finish_reason == "abort" for r in responses),
        "cancelled_tokens": sum(r.num_tokens for r in responses if r.finish_reason == "abort"),
        "request_s": round(sum(r.elapsed_s for r in responses), 4),
        "servers": sorted({r.server for r in responses}),
    }


def server_row(book: ServerBook, step: int) -> dict[str, Any]:
    assert book.theirs is not None
    return {
        "kind": "server",
        "step": step,
        "server": book.server,
        "restarts": book.restarts,
        **asdict(book.theirs),
        "lost_requests": book.ours.lost_requests,
    }


def lost_server_row(book: ServerBook, reported: ServerCounters, step: int) -> dict[str, Any]:
    """What a dead process answered since it last reported is known from its answers; what it did for requests that it
    took along lies between nothing and their limits. A later row for the same process replaces this one."""
    row: dict[str, Any] = {
        "kind": "lost_server",
        "step": step,
        "server": book.server,
        "restarts": book.restarts,
    }
    for name, room in _ROOM.items():
        answered = getattr(book.ours, name)
        row[name] = answered
        row[f"unreported_{name}_min"] = answered - getattr(reported, name)
        row[f"unreported_{name}_max"] = row[f"unreported_{name}_min"] + getattr(book.ours, room)
    return row


def outcome(group: ResponseGroup) -> str:
    """How sampling ended for a prompt, before anything is borrowed; unsolved ones say why, if known. Only the graded
    responses have a say."""
    graded = [scored for scored in group.responses if scored.response.finish_reason != "abort"]
    correct = [scored.is_correct for scored in graded]
    if any(correct):
        return "all_correct" if all(correct) else "mixed"
    if not graded:
        return "verifier_error" if group.errored else "cancelled"
    if all(scored.response.finish_reason == "length" for scored in graded):
        return "truncated"
    return "all_wrong"


def check_rows(rows: ServerUsage, seen: ServerUsage) -> None:
    """Every answer is in a row, or in a named class of work that became no response."""
    expected = {
        "requests": seen.requests - seen.aborted_requests - seen.unused_requests,
        "generated_tokens": seen.generated_tokens
        - seen.aborted_generated_tokens
        - seen.unused_generated_tokens,
    }
    for name, answered in expected.items():
        if getattr(rows, name) != answered:
            raise LedgerError(
                f"the ledger's rows hold {getattr(rows, name)} {name}, but the servers answered with {answered} "
                f"(aborted {seen.aborted_requests} and unused {seen.unused_requests} requests apart): responses were "
                "lost or counted twice between the client and the ledger. Keep the run's folder and report it."
            )


def check_balance(server: str, ours: ServerUsage, theirs: ServerCounters) -> None:
    """Equal, or above by no more than what the lost requests may have come to."""
    for name, room in _ROOM.items():
        here, there = getattr(ours, name), getattr(theirs, name)
        if not 0 <= there - here <= getattr(ours, room):
            both = ", ".join(
                f"{n} {getattr(ours, n)} here and {getattr(theirs, n)} there" for n in _ROOM
            )
            raise LedgerError(
                f"server {server} counted other work than this run ({both}; {ours.lost_requests} requests were lost). "
                "Either someone else uses the server, or responses were lost or counted twice."
            )
