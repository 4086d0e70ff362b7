"""Which stored answers are trusted: age, times borrowed, a floor on how likely they are now, a user's own choice; who
makes room; what became of a loan."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.reuse_cases import alive, contents, deposit, make_prompt, make_response, open_store

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.records import Record, merge_records
from megatron_ar3po.reuse.admin.inspection import find_response, verify_shard
from megatron_ar3po.reuse.choice import check_pick
from megatron_ar3po.reuse.lender import Lender
from megatron_ar3po.types import Prompt, Response, ResponseGroup
from megatron_ar3po.update_stats import LoanOutcome

PROMPT = make_prompt(0)


@dataclass
class FakeScorer:
    """The mean log-prob of an answer is -1 for the first of its step, -2 for the second, and so on."""

    asked: list[str] = field(default_factory=list)

    def mean_logprobs(
        self, asked: Sequence[tuple[Prompt, Response]], *, step: int, policy_version: int
    ) -> list[float]:
        self.asked += (response.response_id for _, response in asked)
        return [-1.0 - response.index for _, response in asked]


def counts_of(*records: Mapping[str, Record]) -> dict[str, float]:
    """By name without the room."""
    return {
        name.removeprefix("reuse/"): record.value
        for name, record in merge_records(*records).items()
    }


def unsolved_group(step: int, position: int = 0, number: int = 0) -> ResponseGroup:
    prompt = make_prompt(number)
    wrong = tuple(make_response(prompt, step, i, status="incorrect") for i in range(2))
    return ResponseGroup(position=position, prompt=prompt, responses=wrong)


def borrowed_of(group: ResponseGroup) -> str | None:
    return next((r.response.response_id for r in group.responses if r.origin == "reused"), None)


def test_the_most_likely_answer_of_a_bounded_number_is_lent(tmp_path: Path) -> None:
    scorer = FakeScorer()
    with open_store(tmp_path, pick="likely", max_scored_candidates=3) as store:
        deposit(store, [make_response(PROMPT, 1, i) for i in range(8)], step=1)
        lender = Lender(store, scorer, run_seed=0)
        (group,), records = lender.lend([unsolved_group(2)], step=2, policy_version=1)
        counts = counts_of(records, store.records)
    assert len(scorer.asked) == 3
    first = min(scorer.asked, key=lambda name: int(name[-1]))
    assert borrowed_of(group) == first
    expected = {"scored_responses": 3, "scored_tokens": 15, "loans": 1, "not_scored": 5}
    assert expected.items() <= counts.items()
    loan = find_response(tmp_path, first).loans[0]
    assert loan.mean_logprob == -1.0 - int(first[-1])


def test_an_answer_below_the_floor_is_not_lent_and_is_counted(tmp_path: Path) -> None:
    """Three answers at -1, -2 and -3 with a floor of -2: two groups borrow the first two, the third finds nothing."""
    scorer = FakeScorer()
    groups = [unsolved_group(2, position) for position in range(3)]
    with open_store(tmp_path, min_mean_logprob=-2.0) as store:
        deposit(store, [make_response(PROMPT, 1, i) for i in range(3)], step=1)
        lender = Lender(store, scorer, run_seed=0)
        lent, records = lender.lend(groups, step=2, policy_version=1)
        counts = counts_of(records, store.records)
    assert sorted(scorer.asked) == ["s1-p0-i0", "s1-p0-i1", "s1-p0-i2"]  # each once
    assert sorted(map(str, map(borrowed_of, lent))) == ["None", "s1-p0-i0", "s1-p0-i1"]
    assert (counts["unsolved_groups"], counts["loans"], counts["below_floor"]) == (3, 2, 3)
    assert counts["lent_in_this_step"] == 0 + 1 + 2
    assert counts["borrowed_groups"] == 2 and counts["hit_frac"] == pytest.approx(2 / 3)


def test_nobody_is_asked_where_no_score_is_wanted(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        deposit(store, [make_response(PROMPT, 1)], step=1)
        lender = Lender(store, None, run_seed=0)
        (group,), _ = lender.lend([unsolved_group(2)], step=2, policy_version=1)
        assert borrowed_of(group) == "s1-p0-i0"


def test_what_turns_an_answer_away_is_counted_in_its_step(tmp_path: Path) -> None:
    with open_store(tmp_path, max_age_steps=3, max_times_borrowed=1) as store:
        deposit(store, [make_response(PROMPT, 1)], step=1)
        assert store.borrow(make_prompt(1).prompt_id, step=2) is None
        assert store.borrow(PROMPT.prompt_id, step=2) is not None
        size = {"store_responses": 1, "store_bytes": store.path.stat().st_size}
        assert counts_of(store.records) == {"nothing_stored": 1, "loans": 1, **size}
        assert store.borrow(PROMPT.prompt_id, step=3) is None
        assert counts_of(store.records) == {"lent_too_often": 1, **size}
        assert store.borrow(PROMPT.prompt_id, step=5) is None
        assert counts_of(store.records) == {"too_old": 1, **size}


def test_a_users_own_choice_decides(tmp_path: Path) -> None:
    seen = []

    def least_borrowed_then_longest(candidates, request):
        seen.append((request.prompt_id, request.step, request.position, len(candidates)))
        return min(candidates, key=lambda c: (c.times_borrowed, -c.num_tokens, request.chance(c)))

    module = types.ModuleType("my_choice")
    module.pick = least_borrowed_then_longest  # type: ignore[attr-defined]
    module.nothing = lambda candidates, request: None  # type: ignore[attr-defined]
    module.first_word = lambda candidates, request: "the first"  # type: ignore[attr-defined]
    module.too_few = lambda candidates: candidates[0]  # type: ignore[attr-defined]
    module.breaks = lambda candidates, request: 1 / 0  # type: ignore[attr-defined]
    sys.modules["my_choice"] = module
    answers = [make_response(PROMPT, 1, i, num_tokens=4 + i) for i in range(2)]
    with open_store(tmp_path / "a", pick="my_choice:pick") as store:
        deposit(store, answers, step=1)
        names = [store.borrow(PROMPT.prompt_id, step=s, position=7) for s in (2, 3, 4)]
    assert [n.response.index for n in names if n is not None] == [1, 0, 1]
    assert seen[0] == (PROMPT.prompt_id, 2, 7, 2)
    with open_store(tmp_path / "b", pick="my_choice:nothing") as store:
        deposit(store, answers, step=1)
        assert store.borrow(PROMPT.prompt_id, step=2) is None
        assert counts_of(store.records)["refused_by_pick"] == 1
    with open_store(tmp_path / "c", pick="my_choice:first_word") as store:
        deposit(store, answers, step=1)
        with pytest.raises(ValueError, match="returned 'the first'; it must return one of its"):
            store.borrow(PROMPT.prompt_id, step=2)
    with open_store(tmp_path / "d", pick="my_choice:breaks") as store:
        deposit(store, answers, step=1)
        with pytest.raises(ValueError, match=r"reuse\.pick=my_choice:breaks raised ZeroDivision"):
            store.borrow(PROMPT.prompt_id, step=2)
    check_pick(ReuseConfig(pick="my_choice:pick"))
    with pytest.raises(ValueError, match=r"cannot take \(candidates, request\)"):
        check_pick(ReuseConfig(pick="my_choice:too_few"))
    with pytest.raises(ValueError, match=r"reuse\.pick=best is neither one of uniform"):
        ReuseConfig(pick="best")


def test_old_answers_are_evicted_and_come_back_with_a_rollback(tmp_path: Path) -> None:
    """At step 5 and max_age_steps=2 the answers of steps 1 and 2 leave."""
    with open_store(tmp_path, max_age_steps=2) as store:
        for step in (1, 2, 3):
            deposit(store, [make_response(make_prompt(step), step)], step)
            assert counts_of(store.records)["deposited"] == 1
        _ = store.cursor
        deposit(store, [], step=5)
        assert alive(store.path) == {"s3-p3-i0"} and len(store) == 1
        assert counts_of(store.records)["evicted_by_age"] == 2
        store.rollback({"step": 3})
        assert alive(store.path) == {"s1-p1-i0", "s2-p2-i0", "s3-p3-i0"}
        deposit(store, [], step=6)
        store.commit_checkpoint({"step": 6})
        assert contents(store.path) == {}
        path = store.path
    assert list(verify_shard(path)) == []


def test_beyond_its_bytes_a_shard_evicts_the_oldest(tmp_path: Path) -> None:
    """Room for two and a half answers of one size: the newest two stay, whatever their prompts."""
    with open_store(tmp_path / "measured") as store:
        deposit(store, [make_response(make_prompt(1), 1)], step=1)
        num_bytes = store._state.num_bytes
    limit, evicted = int(2.5 * num_bytes), []
    with open_store(tmp_path / "limited", max_shard_bytes=limit) as store:
        for step in (1, 2, 3, 4):
            deposit(store, [make_response(make_prompt(step), step)], step)
            evicted.append(counts_of(store.records).get("evicted_by_bytes", 0))
        assert alive(store.path) == {"s3-p3-i0", "s4-p4-i0"}
        assert evicted == [0, 0, 1, 1]
        store.rollback({"step": 2})
        assert alive(store.path) == {"s1-p1-i0", "s2-p2-i0"}
        assert store._state.num_bytes <= limit
        path = store.path
    assert list(verify_shard(path)) == []


def test_what_became_of_a_loan_is_written_down_with_it(tmp_path: Path) -> None:
    with open_store(tmp_path, option="recompute") as store:
        deposit(store, [make_response(make_prompt(n), 1) for n in (0, 1)], step=1)
        for position in (0, 1):
            store.borrow(make_prompt(position).prompt_id, step=2, position=position)
        told = [
            LoanOutcome(position=0, response_id="s1-p0-i0", option="recompute", drift=0.25),
            LoanOutcome(position=1, response_id="s1-p1-i0", option="detach", drift=3.5),
            LoanOutcome(position=9, response_id="s1-p9-i0", option="recompute", drift=1.0),
        ]
        store.record_outcomes(told, step=2)
        by_update = LoanOutcome(position=0, response_id="s1-p0-i0", ratio=1.125, clip_frac=0.5)
        store.record_outcomes([by_update], step=2)
        store.record_outcomes([LoanOutcome(position=0, response_id="s1-p0-i0", ratio=9)], step=3)
        _ = store.cursor
    kept, switched = (find_response(tmp_path, f"s1-p{n}-i0").loans[0] for n in (0, 1))
    assert (kept.option, kept.drift, kept.ratio, kept.clip_frac) == ("recompute", 0.25, 1.125, 0.5)
    assert (switched.option, switched.drift, switched.ratio) == ("detach", 3.5, None)
