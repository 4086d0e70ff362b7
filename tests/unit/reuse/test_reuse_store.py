"""Deposit, borrow, evict, cursor and rollback of one shard, in plain numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.reuse_cases import (
    alive,
    as_reused,
    assert_same_response,
    contents,
    deposit,
    make_prompt,
    make_response,
    open_store,
)

from megatron_ar3po.reuse.null_store import NullStore


def test_a_borrowed_response_is_bit_for_bit_what_was_deposited(tmp_path: Path) -> None:
    prompt, given = make_prompt(7), make_response(make_prompt(7), step=1, num_tokens=1000)
    with open_store(tmp_path) as store:
        assert deposit(store, [given], step=1) == 1
        borrowed = store.borrow(prompt.prompt_id, step=2)
    assert borrowed is not None
    assert_same_response(borrowed, given)


@pytest.mark.parametrize("largest", [0, 65_535, 65_536, 2**24 - 1, 2**24, 2**31 - 1])
def test_token_ids_of_any_size_come_back(tmp_path: Path, largest: int) -> None:
    given = make_response(make_prompt(1), step=1, num_tokens=3)
    tokens = np.array([0, largest, 1], dtype=np.int32)
    given = replace(given, response=replace(given.response, token_ids=tokens))
    with open_store(tmp_path) as store:
        deposit(store, [given], step=1)
        borrowed = store.borrow(given.response.prompt_id, step=2)
    assert borrowed is not None and borrowed.response.token_ids.tolist() == [0, largest, 1]


def test_a_step_borrows_only_from_strictly_earlier_steps(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path) as store:
        deposit(store, [make_response(prompt, step=5)], step=5)
        assert store.borrow(prompt.prompt_id, step=5) is None
        assert store.borrow(prompt.prompt_id, step=6) is not None


def test_depositing_the_same_response_twice_stores_it_once(tmp_path: Path) -> None:
    given = make_response(make_prompt(3), step=1)
    with open_store(tmp_path) as store:
        assert deposit(store, [given, given], step=1) == 1
        assert deposit(store, [given], step=1) == 0
        assert len(store) == 1


@pytest.mark.parametrize("keep", ["newest", "reservoir"])
def test_depositing_again_what_the_cap_turned_away_changes_nothing(
    tmp_path: Path, keep: str
) -> None:
    given = [make_response(make_prompt(3), step=1, index=i) for i in range(10)]
    with open_store(tmp_path, max_responses_per_prompt=4, keep=keep) as store:
        assert deposit(store, given, step=1) == 4
        before = alive(store.path)
        assert deposit(store, given, step=1) == 0
        assert alive(store.path) == before and len(store) == 4


def test_a_borrowed_or_incorrect_response_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    good, other = (
        make_response(make_prompt(3), step=1),
        make_response(make_prompt(3), step=1, index=1),
    )
    wrong = make_response(make_prompt(3), step=1, index=2, status="incorrect")
    with open_store(tmp_path) as store:
        with pytest.raises(ValueError, match="is reused and correct"):
            deposit(store, [good, as_reused(other)], step=1)
        with pytest.raises(ValueError, match="is fresh and incorrect"):
            deposit(store, [good, wrong], step=1)
        assert len(store) == 0


def test_a_response_without_a_finite_logprob_for_every_token_is_refused(tmp_path: Path) -> None:
    good = make_response(make_prompt(3), step=1)
    for bad in (np.array([0, np.nan, 0, 0, 0], dtype=np.float32), np.zeros(4, dtype=np.float32)):
        with open_store(tmp_path) as store:
            with pytest.raises(ValueError, match="every sampled token needs its log-prob"):
                deposit(
                    store, [replace(good, response=replace(good.response, logprobs=bad))], step=1
                )
            assert len(store) == 0
            assert deposit(store, [good], step=1) == 1  # the failure left nothing behind
        for file in tmp_path.iterdir():
            file.unlink()


def test_a_prompt_of_another_rank_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path, dp_rank=0, dp_size=2) as store:
        assert deposit(store, [make_response(make_prompt(4), step=1)], step=1) == 1
        with pytest.raises(ValueError, match="belongs to data-parallel rank 1, not 0"):
            deposit(store, [make_response(make_prompt(5), step=1)], step=1)


def test_newest_keeps_the_newest_steps_of_a_prompt(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path, max_responses_per_prompt=2, keep="newest") as store:
        for step in range(1, 6):
            deposit(store, [make_response(prompt, step=step)], step=step)
        assert alive(store.path) == {"s4-p3-i0", "s5-p3-i0"}
        assert len(store) == 2


def test_reservoir_keeps_a_uniform_sample_of_all_that_was_deposited(tmp_path: Path) -> None:
    """200 prompts, 8 deposits each, 2 stay: every step should survive in about 200 * 2 / 8 = 50 prompts. The bounds
    are 5 standard deviations of a binomial (200, 1/4): 50 +- 31."""
    prompts = [make_prompt(n) for n in range(200)]
    with open_store(tmp_path, max_responses_per_prompt=2, keep="reservoir") as store:
        for step in range(1, 9):
            deposit(store, [make_response(prompt, step=step) for prompt in prompts], step=step)
        survivors = Counter(
            step for step, evicted, *_ in contents(store.path).values() if evicted is None
        )
    assert sum(survivors.values()) == 400
    assert all(19 < survivors[step] < 81 for step in range(1, 9)), survivors


def test_the_pick_is_a_function_of_seed_prompt_step_and_position_alone(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    given = [make_response(prompt, step=1, index=i) for i in range(8)]

    def picks(folder: Path, responses: list, run_seed: int) -> list[str]:
        with open_store(folder, run_seed=run_seed) as store:
            deposit(store, responses, step=1)
            lent = [store.borrow(prompt.prompt_id, step=step, position=9) for step in range(2, 30)]
        return [scored.response.response_id for scored in lent if scored]

    first = picks(tmp_path / "a", given, run_seed=0)
    assert (
        picks(tmp_path / "b", given[::-1], run_seed=0) == first
    )  # the order of the deposit does not matter
    assert picks(tmp_path / "c", given, run_seed=1) != first
    assert len(set(first)) > 4


def test_uniform_lends_every_stored_response_about_equally_often(tmp_path: Path) -> None:
    """400 loans of 4 responses: 100 each, bounds of 5 standard deviations of a binomial (400, 1/4): 100 +- 43."""
    prompt = make_prompt(3)
    with open_store(tmp_path) as store:
        deposit(store, [make_response(prompt, step=1, index=i) for i in range(4)], step=1)
        lent = Counter(
            scored.response.index
            for step in range(2, 402)
            if (scored := store.borrow(prompt.prompt_id, step=step))
        )
    assert sum(lent.values()) == 400
    assert all(57 < lent[i] < 143 for i in range(4)), lent


def test_newest_and_shortest_lend_the_newest_and_the_shortest(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    lengths = {1: 9, 2: 4, 3: 6}
    for pick, expected in (("newest", 3), ("shortest", 2)):
        with open_store(tmp_path / pick, pick=pick) as store:
            for step, length in lengths.items():
                deposit(store, [make_response(prompt, step=step, num_tokens=length)], step=step)
            borrowed = store.borrow(prompt.prompt_id, step=4)
        assert borrowed is not None and borrowed.response.step == expected


def test_a_response_is_lent_once_in_a_step_and_again_in_the_next(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path) as store:
        deposit(store, [make_response(prompt, step=1, index=i) for i in range(2)], step=1)
        for step in (2, 3):
            lent = [
                store.borrow(prompt.prompt_id, step=step, position=position)
                for position in range(3)
            ]
            assert {scored.response.index for scored in lent if scored} == {0, 1}
            assert lent[2] is None
            _ = store.cursor  # also not after the loans were written down
            assert store.borrow(prompt.prompt_id, step=step, position=3) is None


def test_excluded_responses_are_not_lent(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path) as store:
        deposit(store, [make_response(prompt, step=1, index=i) for i in range(2)], step=1)
        borrowed = store.borrow(prompt.prompt_id, step=2, exclude=["s1-p3-i0"])
        assert borrowed is not None and borrowed.response.response_id == "s1-p3-i1"
        assert store.borrow(prompt.prompt_id, step=2, exclude=["s1-p3-i0"]) is None


def test_a_response_older_than_max_age_steps_is_not_lent(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path, max_age_steps=3) as store:
        deposit(store, [make_response(prompt, step=1)], step=1)
        assert store.borrow(prompt.prompt_id, step=4) is not None
        assert store.borrow(prompt.prompt_id, step=5) is None


def test_a_response_lent_max_times_borrowed_is_not_lent_again(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path, max_times_borrowed=2) as store:
        deposit(store, [make_response(prompt, step=1)], step=1)
        lent = []
        for step in (2, 3, 4):
            lent.append(store.borrow(prompt.prompt_id, step=step) is not None)
            _ = store.cursor
        assert lent == [True, True, False]


def test_a_rollback_undoes_deposits_evictions_and_loans_of_later_steps(tmp_path: Path) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path, max_responses_per_prompt=2) as store:
        for step in (1, 2):
            deposit(store, [make_response(prompt, step=step)], step=step)
        store.borrow(prompt.prompt_id, step=2)
        cursor, before = store.cursor, contents(store.path)
        for step in (3, 4):
            deposit(store, [make_response(prompt, step=step)], step=step)
            store.borrow(prompt.prompt_id, step=step)
            _ = store.cursor
        assert alive(store.path) == {"s3-p3-i0", "s4-p3-i0"}
        store.rollback(cursor)
        assert contents(store.path) == before and store.cursor == cursor == {"step": 2}
        assert len(store) == 2
        assert (
            deposit(store, [make_response(prompt, step=3)], step=3) == 1
        )  # the steps can be done again


def test_a_resumed_run_draws_the_same_loans_again(tmp_path: Path) -> None:
    prompts = [make_prompt(n) for n in range(6)]

    def run(store, steps) -> list[str]:
        lent = []
        for step in steps:
            deposit(
                store,
                [make_response(p, step=step, index=i) for p in prompts[::2] for i in range(3)],
                step=step,
            )
            for position, prompt in enumerate(prompts):
                if scored := store.borrow(prompt.prompt_id, step=step, position=position):
                    lent.append(scored.response.response_id)
            cursors.append(store.cursor)
        return lent

    cursors: list[dict[str, int]] = []
    options = {"max_responses_per_prompt": 3, "keep": "reservoir", "max_times_borrowed": 2}
    with open_store(tmp_path, **options) as store:
        run(store, range(1, 5))
        first, held = run(store, range(5, 9)), contents(store.path)
    with open_store(tmp_path, **options) as store:
        store.rollback(cursors[3])
        again = run(store, range(5, 9))
        # the same responses under the same ids, each once; the number of the opening is among their bytes
        done_again = contents(store.path)
    assert {name: row[:3] for name, row in done_again.items()} == {
        name: row[:3] for name, row in held.items()
    }
    assert again == first and len(first) > 5


def test_a_committed_checkpoint_deletes_what_was_evicted_and_bars_the_way_back(
    tmp_path: Path,
) -> None:
    prompt = make_prompt(3)
    with open_store(tmp_path, max_responses_per_prompt=1) as store:
        for step in (1, 2, 3):
            deposit(store, [make_response(prompt, step=step)], step=step)
        store.commit_checkpoint({"step": 2})
        assert {name: row[1] for name, row in contents(store.path).items()} == {
            "s2-p3-i0": 3,
            "s3-p3-i0": None,
        }
        with pytest.raises(
            ValueError, match=r"cannot go back to step 1: since the checkpoint of step 2"
        ):
            store.rollback({"step": 1})
        store.rollback({"step": 2})
        assert alive(store.path) == {"s2-p3-i0"}


def test_steps_only_go_forward_without_a_rollback(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        deposit(store, [make_response(make_prompt(3), step=4)], step=4)
        with pytest.raises(ValueError, match="stands at step 4 and is asked to work on step 3"):
            deposit(store, [make_response(make_prompt(3), step=3)], step=3)


def test_an_empty_deposit_moves_the_cursor_so_that_all_ranks_agree(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.cursor == {"step": 0}
        assert deposit(store, [], step=7) == 0
        assert store.cursor == {"step": 7}


def test_the_null_store_takes_nothing_and_lends_nothing() -> None:
    store, prompt = NullStore(), make_prompt(1)
    assert (
        store.deposit([make_response(prompt, 1)], prompts={prompt.prompt_id: prompt}, step=1) == 0
    )
    assert store.borrow(prompt.prompt_id, step=2) is None
    store.rollback(store.cursor)
    store.commit_checkpoint(store.cursor)
    assert store.shortlist(prompt.prompt_id, step=2, position=0) == []
    assert store.records == {}
    store.close()
