"""Any sequence of deposit, borrow, checkpoint, rollback, restart and reshard equals a plain in-memory model.

The model is a list of events, replayed from the start for every question: what the store should be after step N is
what the events of steps <= N make of nothing. It knows no database, no undo log and no shards.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import hypothesis.strategies as st
from fakes.reuse_cases import alive, contents, deposit, make_prompt, make_response, open_store
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from megatron_ar3po.reuse.store import ReuseStore

NUM_PROMPTS = 3
IN_MEMORY = Path("/dev/shm")  # speed: this test is about contents, not about disks


def hash_rank_of(response_id: str) -> int:
    """The rule of the store's documentation, written again."""
    digest = blake2b(f"0\0keep\0{response_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass
class Model:
    """`deposits`: (step, prompt number, response id) in order, and (step, None, "") where each store was called: old
    age comes then. `loans`: (step, prompt number, response id)."""

    cap: int
    keep: str
    max_age: int
    max_loans: int
    deposits: list[tuple[int, int | None, str]] = field(default_factory=list)
    loans: list[tuple[int, int, str]] = field(default_factory=list)

    def alive(self, prompt: int) -> dict[str, int]:
        """{response id: step of its deposit}: after each event only the best `cap` stay, and none that is too old."""
        held: dict[str, int] = {}
        for step, owner, response_id in self.deposits:
            if owner is None and self.max_age:
                held = {r: s for r, s in held.items() if step - s <= self.max_age}
            if owner == prompt:
                held.setdefault(response_id, step)
                order = sorted(
                    held,
                    key=lambda r: (-held[r] if self.keep == "newest" else 0, hash_rank_of(r), r),
                )
                held = {r: held[r] for r in order[: self.cap]}
        return held

    def lendable(self, prompt: int, step: int) -> set[str]:
        times = defaultdict(list)
        for loan_step, _, response_id in self.loans:
            times[response_id].append(loan_step)
        return {
            response_id
            for response_id, deposited in self.alive(prompt).items()
            if deposited < step
            and step not in times[response_id]
            and (not self.max_age or step - deposited <= self.max_age)
            and (not self.max_loans or len(times[response_id]) < self.max_loans)
        }

    def rollback(self, step: int) -> None:
        self.deposits = [event for event in self.deposits if event[0] <= step]
        self.loans = [event for event in self.loans if event[0] <= step]


class StoreMachine(RuleBasedStateMachine):
    @initialize(
        cap=st.integers(1, 2),
        keep=st.sampled_from(["newest", "reservoir"]),
        pick=st.sampled_from(["uniform", "newest", "shortest"]),
        max_age=st.integers(0, 3),
        max_loans=st.integers(0, 2),
        dp_size=st.integers(1, 3),
    )
    def start(
        self, cap: int, keep: str, pick: str, max_age: int, max_loans: int, dp_size: int
    ) -> None:
        self.folder = Path(
            tempfile.mkdtemp(
                prefix="ar3po-reuse-model-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None
            )
        )
        self.options = {
            "max_responses_per_prompt": cap,
            "keep": keep,
            "pick": pick,
            "max_age_steps": max_age,
            "max_times_borrowed": max_loans,
        }
        self.model = Model(cap=cap, keep=keep, max_age=max_age, max_loans=max_loans)
        self.step = 1
        self.committed = 0
        self.open(dp_size)

    def open(self, dp_size: int) -> None:
        self.stores: list[ReuseStore] = [
            open_store(self.folder, dp_rank=rank, dp_size=dp_size, **self.options)
            for rank in range(dp_size)
        ]

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def owner(self, prompt: int) -> ReuseStore:
        return self.stores[prompt % len(self.stores)]

    @rule(prompt=st.integers(0, NUM_PROMPTS - 1), index=st.integers(0, 2))
    def deposit_in_a_new_step(self, prompt: int, index: int) -> None:
        self.end_step()
        self.deposit([(prompt, index)])

    @rule(
        given=st.lists(
            st.tuples(st.integers(0, NUM_PROMPTS - 1), st.integers(0, 2)), min_size=1, max_size=6
        )
    )
    def deposit(self, given: list[tuple[int, int]]) -> None:
        for rank, store in enumerate(self.stores):
            mine = [
                make_response(make_prompt(p), self.step, i, num_tokens=1 + i)
                for p, i in given
                if p % len(self.stores) == rank
            ]
            before = {p: self.model.alive(p) for p in range(NUM_PROMPTS)}
            for scored in mine:
                number = int(scored.response.prompt_id[:16], 16)
                self.model.deposits.append((self.step, number, scored.response.response_id))
            expected = sum(len(self.model.alive(p).keys() - before[p].keys()) for p in before)
            assert deposit(store, mine, self.step) == expected
        self.model.deposits.append((self.step, None, ""))

    @rule(prompt=st.integers(0, NUM_PROMPTS - 1), position=st.integers(0, 9))
    def borrow(self, prompt: int, position: int) -> None:
        lendable = self.model.lendable(prompt, self.step)
        scored = self.owner(prompt).borrow(
            make_prompt(prompt).prompt_id, step=self.step, position=position
        )
        assert (scored is None) == (not lendable)
        if scored is None:
            return
        assert scored.response.response_id in lendable
        deposited = self.model.alive(prompt)
        if self.options["pick"] == "newest":
            newest = max(deposited[r] for r in lendable)
            assert deposited[scored.response.response_id] == newest
        if self.options["pick"] == "shortest":
            shortest = min(int(r.rsplit("i", 1)[1]) for r in lendable)
            assert scored.response.index == shortest
        self.model.loans.append((self.step, prompt, scored.response.response_id))

    @rule()
    def end_step(self) -> None:
        for store in self.stores:
            deposit(store, [], self.step)
            assert store.cursor == {"step": self.step}
        self.model.deposits.append((self.step, None, ""))
        self.step += 1

    @rule(back=st.integers(0, 3))
    def commit_checkpoint(self, back: int) -> None:
        cursor = {"step": max(self.committed, self.step - 1 - back)}
        self.committed = cursor["step"]
        for store in self.stores:
            store.commit_checkpoint(cursor)

    @rule(back=st.integers(0, 4), dp_size=st.integers(1, 3), is_killed=st.booleans())
    def resume(self, back: int, dp_size: int, is_killed: bool) -> None:
        """The process ends, in order or not, and another one goes on from a cursor at any DP size."""
        if is_killed:
            for store in self.stores:
                store._connection.close()
                store._owner.release()
                store._owner = None
        else:
            self.close()
        self.open(dp_size)
        step = max(self.committed, self.step - 1 - back)
        for store in self.stores:
            store.rollback({"step": step})
        self.model.rollback(step)
        self.step = step + 1

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "stores"):
            return
        shards = [store.path for store in self.stores]
        expected = {r for p in range(NUM_PROMPTS) for r in self.model.alive(p)}
        assert alive(*shards) == expected
        assert sum(len(store) for store in self.stores) == len(expected)
        written = {
            (step, name) for name, row in contents(*shards).items() for step, *_ in row[2]
        } | {pending for store in self.stores for pending in self.pending(store)}
        assert {(s, r) for s, _, r in self.model.loans if r in expected} == {
            (s, r) for s, r in written if r in expected
        }

    def pending(self, store: ReuseStore) -> Iterator[tuple[int, str]]:
        for loans in store._pending.values():
            yield from ((step, loan.response_id) for step, loan in loans.items())

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            self.close()
            shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
