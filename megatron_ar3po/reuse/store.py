"""`ReuseStore`: one data-parallel rank's shard of the reuse store. Leader only; one store per process and shard.

    deposit    a step's fresh correct responses, in one transaction (deposits.py: who stays, who makes room)
    shortlist  what the servers should be asked about before `borrow`, where `reuse` wants their log-probs
    borrow     one response of an earlier step for an unsolved prompt (lending.py: what passes; choice.py: which one)
    cursor     where the store stands; rollback(cursor) brings it back there; commit_checkpoint(cursor) forgets what
               only a return to before `cursor` would need

**Time** is counted in training steps and only goes forward. "The store as of step N" is all that steps <= N did. A
cursor therefore means the same on every rank and for every DP size, provided every leader calls `deposit` in every
step (with an empty list, too).

**Loans** are kept in memory, with what becomes of them (`record_outcomes`), until the step's `cursor` is read (or the
next deposit, or `close`): a loan of a step that did not end belongs to nobody, since a resume goes back to a cursor.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.records import Records, Sum
from megatron_ar3po.reuse.choice import Candidate, LoanRequest, choose, hash_rank_of, shortlist
from megatron_ar3po.reuse.codec import DamagedRowError
from megatron_ar3po.reuse.database import (
    Fingerprint,
    ReuseStoreError,
    ShardState,
    explain_errors,
    read_state,
    transaction,
    write_state,
)
from megatron_ar3po.reuse.deposits import evict_oldest, insert_step, refuse_unworthy
from megatron_ar3po.reuse.lending import (
    PendingLoans,
    earlier_candidates,
    filter_likely,
    filter_trusted,
    find_named,
    name_of,
    read_response,
)
from megatron_ar3po.reuse.loans import Loan, insert_loans
from megatron_ar3po.reuse.opening import ShardClaim, check_committed, claim_shard
from megatron_ar3po.reuse.owner import ShardOwner
from megatron_ar3po.reuse.undo import delete_evicted, undo_steps_after
from megatron_ar3po.types import Prompt, Response, ScoredResponse
from megatron_ar3po.update_stats import LoanOutcome

logger = logging.getLogger(__name__)


class ReuseStore:
    """See the module. Open with `ReuseStore.open`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        owner: ShardOwner,
        *,
        config: ReuseConfig,
        run_seed: int,
    ) -> None:
        self.path = path
        self._connection = connection
        self._owner: ShardOwner | None = owner
        self._config = config
        self._run_seed = run_seed
        with explain_errors(path):
            self._state: ShardState = read_state(connection, path)
        self._session: int | None = None
        self._sampler = "{}"
        self._was_made_now = False
        self._check_ownership: Callable[[], None] = lambda: None
        self._pending: PendingLoans = {}
        self._counts: Counter[str] = Counter()  # what was decided in the step that it stands at

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        dp_rank: int,
        dp_size: int,
        config: ReuseConfig,
        run_seed: int,
        fingerprint: Fingerprint,
        sampler: Mapping[str, object] | None = None,
    ) -> ReuseStore:
        """The shard of `dp_rank`, made empty or resharded from another DP size where needed. Every leader calls it.
        `sampler` (how this session's responses are sampled) is noted beside what it deposits."""
        claim = claim_shard(
            folder, dp_rank=dp_rank, dp_size=dp_size, run_seed=run_seed, fingerprint=fingerprint
        )
        return cls.open_claimed(claim, config=config, sampler=sampler)

    @classmethod
    def open_claimed(
        cls,
        claim: ShardClaim,
        *,
        config: ReuseConfig,
        sampler: Mapping[str, object] | None = None,
        check_ownership: Callable[[], None] = lambda: None,
    ) -> ReuseStore:
        """The second half of `open`, for a run that has more to check before it changes anything. `check_ownership`:
        raises where another process has the run's folder now; the shard's own note is looked at anyway."""
        shard = claim.open()
        try:
            store = cls(
                shard.connection, shard.path, shard.owner, config=config, run_seed=claim.run_seed
            )
        except BaseException:  # an interrupt too: nobody else would let go of the shard
            shard.release()
            raise
        store._sampler = json.dumps(dict(sampler or {}))
        store._was_made_now = shard.is_new
        store._check_ownership = check_ownership
        return store

    # -- the step -----------------------------------------------------------------------------------------------

    def deposit(
        self, responses: Sequence[ScoredResponse], *, prompts: Mapping[str, Prompt], step: int
    ) -> int:
        """Keeps fresh correct responses, all or none. Returns how many are new in the store; one that is known
        already, or that the cap per prompt turns away, is not. When it returns, they are on disk."""
        by_prompt: dict[str, list[ScoredResponse]] = {}
        for scored in responses:
            by_prompt.setdefault(scored.response.prompt_id, []).append(scored)
        refuse_unworthy(by_prompt, prompts, self._state, step=step)
        self._advance_clock(step)
        if not by_prompt and not self._pending and not self._is_something_due():
            return 0
        with self._write_transaction():
            self._state, num_new, capped = insert_step(
                self._connection,
                self._state,
                by_prompt,
                prompts,
                config=self._config,
                run_seed=self._state.hash_seed,
                session=self._session_id,
            )
            self._state, oldest = evict_oldest(self._connection, self._state, self._config)
        self._counts += capped + oldest + Counter(deposited=num_new)
        return num_new

    def shortlist(self, prompt_id: str, *, step: int, position: int) -> list[ScoredResponse]:
        """What the servers should be asked about before `borrow`; nothing where `reuse` does not want to know."""
        if not self._config.wants_scores:
            return []
        self._advance_clock(step)
        request = LoanRequest(self._run_seed, prompt_id, step, position)
        with self._read_transaction():
            candidates = self._find_trusted(request, counts=Counter())
            return [
                self._read(candidate, request)
                for candidate in shortlist(candidates, self._config, request)
            ]

    def borrow(
        self,
        prompt_id: str,
        *,
        step: int,
        position: int = 0,
        exclude: Collection[str] = (),
        mean_logprobs: Mapping[str, float] | None = None,
    ) -> ScoredResponse | None:
        """A stored response of a strictly earlier step, or None. It is not lent again in this step; `exclude` names
        further response ids that must not come. `mean_logprobs`: what the servers said of the shortlist, by response
        id; nothing else is lent where `reuse` wants to know."""
        self._advance_clock(step)
        request = LoanRequest(self._run_seed, prompt_id, step, position)
        counts: Counter[str] = Counter()
        with self._read_transaction():
            candidates = self._find_trusted(
                request, counts=counts, exclude={self._hash_rank(name) for name in exclude}
            )
            if self._config.wants_scores:
                scores = {self._hash_rank(n): value for n, value in (mean_logprobs or {}).items()}
                candidates = filter_likely(candidates, scores, self._config, counts=counts)
            chosen = choose(candidates, self._config, request) if candidates else None
            scored = None if chosen is None else self._read(chosen, request)
        if candidates and chosen is None:
            counts["refused_by_pick"] += 1
        self._counts += counts
        if chosen is None or scored is None:
            return None
        self._counts["loans"] += 1
        self._pending.setdefault(chosen.id, {})[step] = Loan(
            scored.response.response_id, step, position, self._config.option, chosen.mean_logprob
        )
        return scored

    def record_outcomes(self, outcomes: Sequence[LoanOutcome], *, step: int) -> None:
        """What became of this step's loans, part by part; those of other shards are passed over."""
        rows = {
            (loans[step].position, loans[step].response_id): loans
            for loans in self._pending.values()
            if step in loans
        }
        for outcome in outcomes:
            if (loans := rows.get((outcome.position, outcome.response_id))) is not None:
                loans[step] = loans[step].with_outcome(outcome)

    @property
    def records(self) -> Records:
        """Every decision of the step that the store stands at, by name, and how much is stored."""
        records = Records(
            {f"reuse/{name}": Sum(count) for name, count in self._counts.items() if count}
        )
        records.add("reuse/store_responses", Sum(len(self)))
        records.add("reuse/store_bytes", Sum(self.path.stat().st_size))
        return records

    # -- checkpoints --------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> dict[str, int]:
        """Where the store stands, for a checkpoint. Read it once at the end of a step: it writes the step's loans
        down first."""
        if self._pending:
            with self._write_transaction():
                pass
        return {"step": self._state.clock}

    def rollback(self, cursor: Mapping[str, int]) -> None:
        """The store as of the end of step `cursor['step']`; what later steps did is gone for good. The cursor of a
        run without reuse is empty and means a store before its first step."""
        step = cursor.get("step", 0)
        check_committed(self.path, self._state.committed, step)
        if step > 0 and self._was_made_now and self._state.next_id == 1:
            logger.warning(
                "reuse store: %s is new, although the run resumes from step %d", self.path, step
            )
        self._pending.clear()
        self._counts.clear()
        before = self._state.num_responses
        with self._write_transaction():
            self._state = undo_steps_after(self._connection, self._state, step)
        if before != self._state.num_responses:
            logger.info(
                "reuse store: back to step %d, %d responses (before: %d)",
                step,
                self._state.num_responses,
                before,
            )

    def commit_checkpoint(self, cursor: Mapping[str, int]) -> None:
        """The oldest checkpoint that is kept has this cursor: no rollback will go to before it, so what was evicted
        up to then is deleted."""
        step = min(cursor.get("step", 0), self._state.clock)
        if step <= self._state.committed:
            return
        with self._write_transaction():
            delete_evicted(self._connection, up_to=step)
            self._state = replace(self._state, committed=step)

    # -- what it holds ------------------------------------------------------------------------------------------

    def find_named(self, prompt_id: str, is_wanted: Callable[[str], bool]) -> list[Response]:
        """Stored responses to a prompt by their ids, evicted ones that may come back too; damaged ones are left out."""
        with self._read_transaction():
            return find_named(self._connection, prompt_id, is_wanted)

    def __len__(self) -> int:
        """Responses that are alive."""
        return self._state.num_responses

    def close(self) -> None:
        """Writes pending loans down and gives the shard free. A second call does nothing."""
        if self._owner is None:
            return
        try:
            _ = self.cursor
        finally:
            self._connection.close()
            self._owner.release()
            self._owner = None

    def __enter__(self) -> ReuseStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _find_trusted(
        self, request: LoanRequest, *, counts: Counter[str], exclude: Collection[int] = ()
    ) -> list[Candidate]:
        """Those that pass but for their likelihood; counts why a loan has none."""
        held = earlier_candidates(self._connection, request, self._pending)
        passed = filter_trusted(held, self._config, request, exclude=exclude, counts=counts)
        counts["nothing_stored"] += not held
        return passed

    def _read(self, candidate: Candidate, request: LoanRequest) -> ScoredResponse:
        try:
            scored = read_response(self._connection, candidate, request.prompt_id)
            if self._hash_rank(scored.response.response_id) != candidate.hash_rank:
                raise DamagedRowError(f"its tokens are those of {scored.response.response_id}")
            return scored
        except DamagedRowError as error:
            raise ReuseStoreError(
                f"{self.path}: stored response {name_of(self._connection, candidate)} is damaged: {error}. "
                "`ar3po reuse verify` lists every damaged row, `ar3po reuse gc --damaged` drops them."
            ) from error

    def _hash_rank(self, response_id: str) -> int:
        return hash_rank_of(self._state.hash_seed, response_id)

    def _is_something_due(self) -> bool:
        """Old age comes without a deposit."""
        return bool(self._config.max_age_steps) and self._state.num_responses > 0

    @contextmanager
    def _read_transaction(self) -> Iterator[None]:
        """One moment of the file, whoever writes."""
        with explain_errors(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    @contextmanager
    def _write_transaction(self) -> Iterator[None]:
        """One transaction that takes the pending loans along. A failure leaves file and memory as they were; an owner
        that was taken over from writes nothing."""
        assert self._owner is not None, "the store is closed"
        self._owner.check()
        self._check_ownership()
        before = (self._state, self._session)
        try:
            with transaction(self._connection, self.path):
                insert_loans(
                    self._connection,
                    (
                        (row, loan)
                        for row, by_step in self._pending.items()
                        for loan in by_step.values()
                    ),
                )
                yield
                write_state(self._connection, self._state)
        except BaseException:  # an interrupt too: what is in memory is what is on disk
            self._state, self._session = before
            raise
        self._pending.clear()

    def _advance_clock(self, step: int) -> None:
        if step < self._state.clock:
            raise ReuseStoreError(
                f"{self.path} stands at step {self._state.clock} and is asked to work on step {step}; steps only go "
                "forward. A run that resumes calls rollback with its checkpoint's cursor first."
            )
        if step > self._state.clock:
            self._state = replace(self._state, clock=step)
            self._counts.clear()

    def _session_id(self) -> int:
        """This opening's row in `sessions`; written with the first deposit."""
        if self._session is None:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self._session = secrets.randbits(
                48
            )  # unique in every shard: resharding copies it as it is
            self._connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?)", (self._session, now, self._sampler)
            )
        return self._session
