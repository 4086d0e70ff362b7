"""`ReuseStore`: one data-parallel rank's shard of the reuse store. Leader only; one store per process and shard.

    deposit   a step's fresh correct responses, in one transaction
    borrow    one response of an earlier step for an unsolved prompt
    cursor    where the store stands; rollback(cursor) brings it back there; commit_checkpoint(cursor) forgets what
              only a return to before `cursor` would need

**Time** is counted in training steps and only goes forward. "The store as of step N" is all that steps <= N did. A
cursor therefore means the same on every rank and for every DP size, provided every leader calls `deposit` in every
step (with an empty list, too).

**Who stays** when a prompt has more than `reuse.max_responses_per_prompt` is decided by a lottery number, a hash of
(run seed, response id): `reservoir` keeps the smallest numbers, which is a uniform sample of all that was ever
deposited for the prompt; `newest` keeps the newest steps and lets the number break ties. There is no random state to
save, and depositing twice changes nothing.

**Loans** are kept in memory until the step's `cursor` is read (or the next deposit, or `close`): a loan of a step that
did not end belongs to nobody, since a resume goes back to a cursor.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from megatron_ar3po.config.schema import ReuseConfig
from megatron_ar3po.reuse.choice import Candidate, choose, lottery_number, turned_away
from megatron_ar3po.reuse.codec import (
    DamagedRowError,
    EncodedRow,
    decode_response,
    encode_prompt,
    encode_responses,
)
from megatron_ar3po.reuse.database import (
    Fingerprint,
    ReuseStoreError,
    create_database,
    explained,
    open_for_writing,
    read_state,
    refuse_strangers,
    seal_database,
    transaction,
)
from megatron_ar3po.reuse.owner import OwnerLock
from megatron_ar3po.reuse.resharding import reshard_one
from megatron_ar3po.reuse.shards import (
    ShardSet,
    current_set,
    has_answers,
    owner_dp_rank,
    prompt_key,
    remove_other_sets,
)
from megatron_ar3po.types import Prompt, ScoredResponse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A response that a deposit brings, with the row it will have (its id is still open)."""

    key: int
    row: Candidate
    scored: ScoredResponse


class ReuseStore:
    """See the module. Open with `ReuseStore.open`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        owner: OwnerLock,
        *,
        config: ReuseConfig,
        run_seed: int,
    ) -> None:
        self.path = path
        self._connection = connection
        self._owner: OwnerLock | None = owner
        self._config = config
        self._run_seed = run_seed
        with explained(path):
            state = read_state(connection, path)
        self._made_for = state
        self._clock, self._committed = state.clock, state.committed
        self._next_id, self._num_responses = state.next_id, state.num_responses
        self._session: int | None = None
        self._sampler = "{}"
        self._was_made_now = False
        self._pending_loans: dict[
            tuple[int, int], int
        ] = {}  # (response, step) -> position, unwritten

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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReuseStoreError(
                f"cannot make the folder {folder}: {error.strerror}; choose another run.dir."
            ) from error
        shard_set, removed = _set_to_open(
            folder, dp_rank=dp_rank, dp_size=dp_size, fingerprint=fingerprint
        )
        if removed:
            logger.info("reuse store: removed obsolete shards %s", ", ".join(removed))
        path = shard_set.path(folder, dp_rank)
        owner = OwnerLock(path)
        try:
            is_new = not path.exists()
            if is_new:
                building = path.with_suffix(".building")
                with explained(path):
                    empty = create_database(
                        building, fingerprint=fingerprint, dp_rank=dp_rank, dp_size=dp_size
                    )
                    seal_database(empty, building, path)
            connection = open_for_writing(path)
            try:
                store = cls(connection, path, owner, config=config, run_seed=run_seed)
                store._refuse_strangers(fingerprint, dp_rank=dp_rank, dp_size=dp_size)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            owner.release()
            raise
        store._sampler = json.dumps(dict(sampler or {}))
        store._was_made_now = is_new
        return store

    # -- the step -----------------------------------------------------------------------------------------------

    def deposit(
        self, responses: Sequence[ScoredResponse], *, prompts: Mapping[str, Prompt], step: int
    ) -> int:
        """Keeps fresh correct responses, all or none. Returns how many are new in the store; one that is known
        already, or that the cap per prompt turns away, is not. When it returns, they are on disk."""
        by_prompt: dict[str, list[ScoredResponse]] = {}
        for scored in responses:
            self._refuse_unworthy(scored, prompts, step)
            by_prompt.setdefault(scored.response.prompt_id, []).append(scored)
        self._advance_clock(step)
        if not by_prompt and not self._pending_loans:
            return 0
        entering: list[_Arrival] = []
        driven_out: list[tuple[int, int, int]] = []
        new_prompts: list[Prompt] = []
        with self._write():
            for prompt_id in sorted(
                by_prompt
            ):  # the order of table `responses`: neighbours share pages
                arrivals, leaving, is_new = self._who_stays(
                    prompt_key(prompt_id), by_prompt[prompt_id]
                )
                entering += arrivals
                driven_out += leaving
                if is_new and arrivals:
                    new_prompts.append(prompts[prompt_id])
            self._connection.executemany(
                "UPDATE responses SET evicted_step = ? WHERE prompt = ? AND id = ?", driven_out
            )
            self._insert_prompts(new_prompts)
            self._insert_responses(entering)
            self._num_responses += len(entering) - len(driven_out)
        return len(entering)

    def borrow(
        self, prompt_id: str, *, step: int, position: int = 0, exclude: Collection[str] = ()
    ) -> ScoredResponse | None:
        """A stored response of a strictly earlier step, or None. It is not lent again in this step; `exclude` names
        further response ids that must not come."""
        self._advance_clock(step)
        with explained(self.path):
            self._connection.execute("BEGIN")
            try:
                candidates = self._lendable(prompt_id, step, exclude)
                if not candidates:
                    return None
                chosen = choose(
                    candidates,
                    self._config,
                    run_seed=self._run_seed,
                    prompt_id=prompt_id,
                    step=step,
                    position=position,
                )
                row = self._connection.execute(
                    "SELECT CAST(details AS BLOB), data, crc FROM payloads WHERE id = ?",
                    (chosen.id,),
                ).fetchone()
            finally:
                self._connection.execute("COMMIT")
        try:
            if row is None:
                raise DamagedRowError("its tokens are gone")
            scored = decode_response(EncodedRow(*row))
            if (scored.response.response_id, scored.response.prompt_id) != (
                chosen.response_id,
                prompt_id,
            ):
                raise DamagedRowError(f"its tokens are those of {scored.response.response_id}")
        except DamagedRowError as error:
            raise ReuseStoreError(
                f"{self.path}: stored response {chosen.response_id} is damaged: {error}. `ar3po reuse verify` lists "
                "every damaged row, `ar3po reuse gc --damaged` drops them."
            ) from error
        self._pending_loans[chosen.id, step] = position
        return scored

    # -- checkpoints --------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> dict[str, int]:
        """Where the store stands, for a checkpoint. Read it once at the end of a step: it writes the step's loans
        down first."""
        if self._pending_loans:
            with self._write():
                pass
        return {"step": self._clock}

    def rollback(self, cursor: Mapping[str, int]) -> None:
        """The store as of the end of step `cursor['step']`; what later steps did is gone for good. The cursor of a
        run without reuse is empty and means a store before its first step."""
        step = cursor.get("step", 0)
        if step < self._committed:
            raise ReuseStoreError(
                f"{self.path} cannot go back to step {step}: since the checkpoint of step {self._committed} "
                "what earlier steps evicted is gone. Resume from that checkpoint or a later one, or remove the "
                "reuse folder to resume with an empty store."
            )
        if step > 0 and self._was_made_now and self._next_id == 1:
            self._refuse_to_replace_a_lost_shard(step)
        self._pending_loans.clear()
        with self._write():
            self._connection.execute("DELETE FROM loans WHERE step > ?", (step,))
            self._connection.execute(
                "DELETE FROM payloads WHERE id IN (SELECT id FROM responses WHERE step > ?)",
                (step,),
            )
            self._connection.execute("DELETE FROM responses WHERE step > ?", (step,))
            self._connection.execute(
                "UPDATE responses SET evicted_step = NULL WHERE evicted_step > ?", (step,)
            )
            (alive,) = self._connection.execute(
                "SELECT COUNT(*) FROM responses WHERE evicted_step IS NULL"
            ).fetchone()
            dropped = self._num_responses - alive
            self._clock, self._num_responses = step, alive
        if dropped:
            logger.info(
                "reuse store: back to step %d, %d responses (before: %d)",
                step,
                alive,
                alive + dropped,
            )

    def commit_checkpoint(self, cursor: Mapping[str, int]) -> None:
        """The oldest checkpoint that is kept has this cursor: no rollback will go to before it, so what was evicted
        up to then is deleted."""
        step = min(cursor.get("step", 0), self._clock)
        if step <= self._committed:
            return
        with self._write():
            gone = "(SELECT id FROM responses WHERE evicted_step <= ?)"
            self._connection.execute(f"DELETE FROM loans WHERE response IN {gone}", (step,))
            self._connection.execute(f"DELETE FROM payloads WHERE id IN {gone}", (step,))
            self._connection.execute("DELETE FROM responses WHERE evicted_step <= ?", (step,))
            self._committed = step

    # -- what it holds ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Responses that are alive."""
        return self._num_responses

    def stats(self) -> dict[str, float]:
        """Metrics of the moment, cheap enough for every step."""
        return {
            "reuse/store_responses": float(len(self)),
            "reuse/store_bytes": float(self.path.stat().st_size),
        }

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

    @contextmanager
    def _write(self) -> Iterator[None]:
        """One transaction that takes the pending loans along. A failure leaves file and memory as they were."""
        before = (self._clock, self._committed, self._next_id, self._num_responses, self._session)
        try:
            with transaction(self._connection, self.path):
                self._connection.executemany(
                    "INSERT INTO loans VALUES (?, ?, ?, ?)",
                    [
                        (*loan, place, self._config.option)
                        for loan, place in self._pending_loans.items()
                    ],
                )
                yield
                self._write_state()
        except BaseException:
            self._clock, self._committed, self._next_id, self._num_responses, self._session = before
            raise
        self._pending_loans.clear()

    def _refuse_strangers(self, fingerprint: Fingerprint, *, dp_rank: int, dp_size: int) -> None:
        refuse_strangers(self._made_for, fingerprint, self.path)
        if (self._made_for.dp_rank, self._made_for.dp_size) != (dp_rank, dp_size):
            raise ReuseStoreError(
                f"{self.path} was made for data-parallel rank {self._made_for.dp_rank} of {self._made_for.dp_size}: "
                "the file was renamed. Give it its old name; `ar3po reuse reshard` changes the number of shards."
            )

    def _refuse_to_replace_a_lost_shard(self, step: int) -> None:
        """A resume that finds no shard: if its siblings hold answers, this one was lost; else the folder is new."""
        siblings = ShardSet(1, self._made_for.dp_size)
        if has_answers(self.path.parent, siblings):
            raise ReuseStoreError(
                f"{self.path} was missing while other shards of {self.path.parent} hold answers. Bring the file back, "
                "or remove the whole folder to resume with an empty store."
            )
        logger.warning(
            "reuse store: %s is new, although the run resumes from step %d", self.path, step
        )

    def _refuse_unworthy(
        self, scored: ScoredResponse, prompts: Mapping[str, Prompt], step: int
    ) -> None:
        response = scored.response
        if scored.origin != "fresh" or not scored.is_correct:
            raise ValueError(
                f"response {response.response_id} is {scored.origin} and {scored.verdict.status}; only fresh correct "
                "responses are deposited (algorithm.response_reuse.responses_worth_keeping picks them)."
            )
        if response.step > step:
            raise ValueError(
                f"response {response.response_id} is of step {response.step}, after this deposit's {step}."
            )
        if response.prompt_id not in prompts:
            raise ValueError(
                f"response {response.response_id} came without its prompt {response.prompt_id}."
            )
        owner = owner_dp_rank(response.prompt_id, self._made_for.dp_size)
        if owner != self._made_for.dp_rank:
            raise ValueError(
                f"prompt {response.prompt_id} belongs to data-parallel rank {owner}, not {self._made_for.dp_rank}; "
                "each leader deposits the prompts it owns."
            )

    def _advance_clock(self, step: int) -> None:
        if step < self._clock:
            raise ReuseStoreError(
                f"{self.path} stands at step {self._clock} and is asked to work on step {step}; steps only go "
                "forward. A run that resumes calls rollback with its checkpoint's cursor first."
            )
        self._clock = step

    def _who_stays(
        self, key: int, group: Sequence[ScoredResponse]
    ) -> tuple[list[_Arrival], list[tuple[int, int, int]], bool]:
        """(what of `group` enters the store, (step, key, id) of what it drives out, whether the prompt is new)."""
        step = self._clock
        rows = self._rows(key)
        known = {row.response_id for row in rows}
        arrivals: dict[str, _Arrival] = {}
        for scored in group:
            name = scored.response.response_id
            if name not in known and name not in arrivals:
                row = Candidate(
                    0,
                    name,
                    step,
                    scored.response.num_tokens,
                    lottery_number(self._run_seed, name),
                    None,
                )
                arrivals[name] = _Arrival(key, row, scored)
        alive = [row for row in rows if row.evicted_step is None]
        leaving = turned_away(
            [*alive, *(arrival.row for arrival in arrivals.values())], self._config
        )
        entering = [arrival for name, arrival in arrivals.items() if name not in leaving]
        driven_out = [(step, key, row.id) for row in alive if row.response_id in leaving]
        return entering, driven_out, not rows

    def _insert_prompts(self, prompts: Sequence[Prompt]) -> None:
        rows = [(prompt_key(p.prompt_id), p.prompt_id, encode_prompt(p)) for p in prompts]
        self._connection.executemany(
            "INSERT OR IGNORE INTO prompts VALUES (?, ?, CAST(? AS TEXT), ?, ?)",
            [(key, name, row.details, row.data, row.crc) for key, name, row in rows],
        )
        for key, name, _ in rows:
            (stored,) = self._connection.execute(
                "SELECT prompt_id FROM prompts WHERE key = ?", (key,)
            ).fetchone()
            if stored != name:
                raise ReuseStoreError(
                    f"prompts {stored} and {name} share their first 16 hex digits; ids must differ there."
                )

    def _insert_responses(self, arrivals: Sequence[_Arrival]) -> None:
        first, session = self._next_id, self._session_id()
        rows = encode_responses(
            [arrival.scored for arrival in arrivals], session=session, deposit_step=self._clock
        )
        self._connection.executemany(
            "INSERT INTO payloads VALUES (?, CAST(? AS TEXT), ?, ?)",
            ((id_, row.details, row.data, row.crc) for id_, row in enumerate(rows, start=first)),
        )
        self._connection.executemany(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, NULL)",
            (
                (a.key, id_, a.row.response_id, a.row.step, a.row.num_tokens, a.row.lottery)
                for id_, a in enumerate(arrivals, start=first)
            ),
        )
        self._next_id += len(arrivals)

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

    def _rows(self, key: int) -> list[Candidate]:
        found = self._connection.execute(
            "SELECT id, response_id, step, num_tokens, lottery, evicted_step FROM responses WHERE prompt = ?",
            (key,),
        )
        return [Candidate(*row) for row in found]

    def _lendable(self, prompt_id: str, step: int, exclude: Collection[str]) -> list[Candidate]:
        config = self._config
        rows = [
            row
            for row in self._rows(prompt_key(prompt_id))
            if row.evicted_step is None
            and row.step < step
            and not (config.max_age_steps and step - row.step > config.max_age_steps)
            and row.response_id not in exclude
            and (row.id, step) not in self._pending_loans
        ]
        return [row for row in rows if self._may_be_lent_again(row, step)]

    def _may_be_lent_again(self, row: Candidate, step: int) -> bool:
        times, newest = self._connection.execute(
            "SELECT COUNT(*), MAX(step) FROM loans WHERE response = ?", (row.id,)
        ).fetchone()
        if newest == step:
            return False
        limit = self._config.max_times_borrowed
        if not limit:
            return True
        return times + sum(response == row.id for response, _ in self._pending_loans) < limit

    def _write_state(self) -> None:
        self._connection.execute(
            "UPDATE shard SET clock = ?, committed = ?, next_id = ?, num_responses = ?",
            (self._clock, self._committed, self._next_id, self._num_responses),
        )


class NullStore:
    """`reuse.enabled=false`: nothing is stored, nothing is lent."""

    cursor: Mapping[str, int] = {}

    def deposit(
        self, responses: Sequence[ScoredResponse], *, prompts: Mapping[str, Prompt], step: int
    ) -> int:
        return 0

    def borrow(
        self, prompt_id: str, *, step: int, position: int = 0, exclude: Collection[str] = ()
    ) -> ScoredResponse | None:
        return None

    def rollback(self, cursor: Mapping[str, int]) -> None:
        pass

    def commit_checkpoint(self, cursor: Mapping[str, int]) -> None:
        pass

    def __len__(self) -> int:
        return 0

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def _set_to_open(
    folder: Path, *, dp_rank: int, dp_size: int, fingerprint: Fingerprint
) -> tuple[ShardSet, list[str]]:
    """The set this rank opens, its own shard resharded if the current set has another size; names of removed files."""
    current = current_set(folder, dp_size=dp_size)
    if current is None:
        return ShardSet(1, dp_size), []
    if current.dp_size != dp_size:
        target = ShardSet(current.version + 1, dp_size)
        reshard_one(folder, current, target, dp_rank=dp_rank, fingerprint=fingerprint)
        if target.missing(
            folder
        ):  # the leaders of the missing ones are still at it: the old set stays until then
            return target, []
        current = target
    return current, remove_other_sets(folder, current)
