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
    {"kind": "cut_short", "step": 3, "responses": 71, ...}    of a step that a kill ended, known from the response log

Each row has a checksum of itself (`"xxh3"`), so that one that was changed later is found at the next resume.

Promises: written ahead, an intent on the disk before its requests are sent; one row for each prompt and step,
discarded ones included, with every response that was generated for it, whatever became of it; evaluation and scoring
are classes of their own. After each step two sums must come out, or the run ends with both numbers: what the rows say
is what this client saw the servers answer, class by class, and what it saw is what the servers counted, per process
of a server. A process that died reports no more: one row bounds what it may have done. Only requests that were lost
on the way leave room for a difference, and they bound it. A step's metrics are sums over these rows
(`sampling_cost`), and so are the run's totals, which are held against `total`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.rollout.ledger_resume import LedgerState
from megatron_ar3po.rollout.ledger_rows import (
    ROOM,
    Row,
    evaluation_row,
    intent_row,
    lost_server_row,
    prompt_rows,
    scoring_row,
    server_row,
    usage_of_responses,
    usage_of_scorings,
)
from megatron_ar3po.sampling_cost import NOTHING, Spent, generated_anew_in
from megatron_ar3po.types import (
    CollectedStep,
    ResponseGroup,
    ScoredResponse,
    Scoring,
    StepPrompt,
)
from megatron_ar3po.usage import LedgerError, ServerBook, ServerCounters, ServerUsage


class Ledger:
    """Rows of one replica. `books`: what was counted on both sides, for each server process this client has used."""

    def __init__(
        self,
        path: Path,
        books: Callable[[], Sequence[ServerBook]] = lambda: (),
        *,
        seen: Callable[[], ServerUsage] | None = None,
        most_of_a_prompt: Spent = NOTHING,
        check_ownership: Callable[[], None] = lambda: None,
    ) -> None:
        """`seen`: what this client was answered, where other clients use its servers and it uses theirs
        (`servers.routing=global`). `most_of_a_prompt`: responses and tokens that one can get in a step.
        `check_ownership`: raises where another process has the run's folder now."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.total = NOTHING  # generated for training since the run began, counted by this replica
        self._path = path
        self._check_ownership = check_ownership
        self._books = books
        self._seen = seen
        self._most_of_a_prompt = most_of_a_prompt
        self._session = 0
        self._answered = ServerUsage()  # what the rows written by this process come to
        self._reported: dict[tuple[str, int], ServerCounters] = {}
        self._lost: dict[tuple[str, int], ServerUsage] = {}

    def go_on(self, state: LedgerState, *, is_first: bool) -> None:
        """A run is taken up. The first replica counts what is there already, whoever wrote it."""
        self.total = state.cost.total if is_first else NOTHING
        self._session = state.num_sessions

    def open_step(self, prompts: Sequence[StepPrompt], *, step: int, policy_version: int) -> None:
        """Before the first request for `prompts`: whoever finds an intent without prompt rows knows what was begun."""
        row = intent_row(
            prompts,
            step=step,
            policy_version=policy_version,
            most_of_a_prompt=self._most_of_a_prompt,
        )
        self._append([row], durably=True)

    def record_step(self, collected: CollectedStep, *, step: int, policy_version: int) -> list[Row]:
        """Returns the rows of the step's prompts. `reconcile` comes after it, when every leader has written its own."""
        rows = prompt_rows(collected, step=step, policy_version=policy_version)
        self._answered += usage_of_responses(
            scored
            for group in collected.graded
            for scored in group.sampled
            if scored.response.response_id not in collected.restored
        )
        self.total += sum(map(generated_anew_in, rows), NOTHING)
        self._append(rows, durably=True)
        return rows

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        """After the prompts' rows, which are written as soon as they are known: `ledger_file` reads the two as one."""
        rescued = [group.position for group in groups if group.num_borrowed]
        if rescued:
            self._append([{"kind": "rescued", "step": step, "positions": rescued}])

    def record_evaluation(
        self, answers: Sequence[Sequence[ScoredResponse]], *, step: int, policy_version: int
    ) -> None:
        """Held against the servers' counters with the next step."""
        self._answered += usage_of_responses(scored for answer in answers for scored in answer)
        self._append([evaluation_row(answers, step=step, policy_version=policy_version)])

    def record_scoring(
        self, scorings: Sequence[Scoring], *, prompt_tokens: int, step: int, policy_version: int
    ) -> None:
        """Answers of the reuse store that the servers have read, not sampled. Held against the servers' counters with
        the next step."""
        self._answered += usage_of_scorings(scorings)
        row = scoring_row(
            scorings, prompt_tokens=prompt_tokens, step=step, policy_version=policy_version
        )
        self._append([row])

    def reconcile(self, *, step: int) -> None:
        """Between rollouts, when no request is in flight. Collective over leaders with `servers.routing=global`, where
        `books` asks them all."""
        books = self._books()
        if not books:
            return
        rows = [self._check_and_describe(book, step) for book in books]
        seen = self._seen() if self._seen else sum((book.ours for book in books), ServerUsage())
        check_rows(self._answered, seen)
        wasted = ("aborted_", "unused_", "queue_", "lost_")
        totals = {name: n for name, n in asdict(seen).items() if name.startswith(wasted)}
        self._append([{"kind": "unused", "step": step, **totals}, *filter(None, rows)])

    def _check_and_describe(self, book: ServerBook, step: int) -> Row | None:
        key = (book.server, book.restarts)
        if book.theirs is not None:
            check_balance(book.server, book.ours, book.theirs)
            self._reported[key] = book.theirs
            return server_row(book, step=step, session=self._session)
        if self._lost.get(key) == book.ours:
            return None  # written down already
        self._lost[key] = book.ours
        reported = self._reported.get(key, ServerCounters())
        return lost_server_row(book, reported, step=step, session=self._session)

    def _append(self, rows: Sequence[Mapping[str, Any]], *, durably: bool = False) -> None:
        self._check_ownership()
        with naming(self._path), self._path.open("ab") as file:
            file.writelines(b"%s\n" % seal_row(row) for row in rows)
            if durably:
                file.flush()
                os.fsync(file.fileno())


def check_rows(rows: ServerUsage, seen: ServerUsage) -> None:
    """Every response that a server generated is in a row, and in the class that it belongs to."""
    names = (
        "requests",
        "generated_tokens",
        "aborted_requests",
        "aborted_generated_tokens",
        "unused_requests",
        "unused_generated_tokens",
    )
    if all(getattr(rows, name) == getattr(seen, name) for name in names):
        return
    both = ", ".join(
        f"{name} {getattr(rows, name)} in the rows and {getattr(seen, name)} answered"
        for name in names
    )
    raise LedgerError(
        f"the rows of the ledger do not hold what the servers have answered since this process started ({both}): "
        "responses were lost or counted twice between the client and the ledger. Keep the run's folder and report it; "
        "run.resume=true goes on from the last checkpoint."
    )


def check_balance(server: str, ours: ServerUsage, theirs: ServerCounters) -> None:
    """Equal, or above by no more than what the lost requests may have come to."""
    for name, room in ROOM.items():
        here, there = getattr(ours, name), getattr(theirs, name)
        if not 0 <= there - here <= getattr(ours, room):
            both = ", ".join(
                f"{n} {getattr(ours, n)} here and {getattr(theirs, n)} there" for n in ROOM
            )
            raise LedgerError(
                f"server {server} counted other work than this run ({both}; {ours.lost_requests} requests were lost). "
                "Either someone else uses the server, or responses were lost or counted twice. Nobody else may use it "
                "while a run does; run.resume=true goes on from the last checkpoint."
            )
