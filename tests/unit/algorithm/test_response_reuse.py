from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from fakes.algorithm_cases import group, make_scored, stored_answer

from megatron_ar3po.algorithm.response_reuse import (
    loans_beyond_the_cap,
    needs_a_loan,
    responses_worth_keeping,
    with_borrowed,
)


def test_only_an_unsolved_group_needs_a_loan() -> None:
    assert needs_a_loan(group([0, 0, 0, 0]))
    assert not needs_a_loan(group([0, 1, 0, 0]))
    assert not needs_a_loan(group([1, 1]))


def test_without_a_stored_response_the_group_stays_as_it_is() -> None:
    unsolved = group([0, 0])
    assert with_borrowed(unsolved, None, seed=0, step=5) is unsolved


def test_the_borrowed_response_takes_the_place_of_one_incorrect_one() -> None:
    unsolved, lent = group([0, 0, 0, 0]), stored_answer()
    rescued = with_borrowed(unsolved, lent, seed=0, step=5)
    assert len(rescued.responses) == 4
    assert rescued.num_borrowed == 1
    assert sorted(rescued.rewards) == [0, 0, 0, 1]
    for before, after in zip(unsolved.responses, rescued.responses, strict=True):
        assert after is before or after == lent


def test_a_borrowed_response_is_marked_as_reused_whatever_the_store_says() -> None:
    lent = replace(stored_answer(), origin="fresh")
    rescued = with_borrowed(group([0]), lent, seed=0, step=5)
    assert [r.origin for r in rescued.responses] == ["reused"]


def replaced_index(seed: int, step: int, position: int) -> int:
    rescued = with_borrowed(
        group([0, 0, 0, 0], position=position),
        stored_answer(position=position),
        seed=seed,
        step=step,
    )
    return [r.origin for r in rescued.responses].index("reused")


def test_which_response_leaves_is_a_function_of_seed_step_and_prompt() -> None:
    assert [replaced_index(3, 5, p) for p in range(50)] == [
        replaced_index(3, 5, p) for p in range(50)
    ]
    assert [replaced_index(3, 5, p) for p in range(50)] != [
        replaced_index(4, 5, p) for p in range(50)
    ]
    assert [replaced_index(3, 5, p) for p in range(50)] != [
        replaced_index(3, 6, p) for p in range(50)
    ]


def test_which_response_leaves_is_uniform() -> None:
    """4,000 choices of 4: 1,000 each, standard deviation sqrt(4000 * 1/4 * 3/4) = 27; 5 of them are 137."""
    counts = Counter(
        replaced_index(1, step, position) for step in range(5, 25) for position in range(200)
    )
    assert all(abs(counts[index] - 1000) < 137 for index in range(4)), counts


def test_only_fresh_correct_responses_are_worth_keeping() -> None:
    mixed = group([0, 1, 1], position=0)
    rescued = with_borrowed(group([0, 0], position=1), stored_answer(position=1), seed=0, step=5)
    kept = responses_worth_keeping([mixed, rescued, group([0], position=2)])
    assert [s.response.response_id for s in kept] == ["p0.1", "p0.2"]


def make_rescued(position: int):
    lent = stored_answer(position=position)
    return with_borrowed(group([0, 0], position=position), lent, seed=0, step=5)


@pytest.mark.parametrize(
    ("max_frac", "num_left"), [(1.0, 6), (0.5, 6), (0.25, 2), (0.15, 1), (0.14, 0), (0.0, 0)]
)
def test_a_cap_bounds_the_share_of_borrowers(max_frac: float, num_left: int) -> None:
    """Six groups with signal of their own, six that borrowed: n of 6 + n train, n / (6 + n) <= the cap. 1 of 7 is
    0.143."""
    groups = [group([1, 0], position=p) for p in range(6)] + [make_rescued(p) for p in range(6, 12)]
    beyond = loans_beyond_the_cap(groups, max_frac)
    assert len(beyond) == 6 - num_left and beyond <= set(range(6, 12))
    assert loans_beyond_the_cap(groups[::-1], max_frac) == beyond


def test_without_signal_of_its_own_a_step_under_a_cap_trains_nothing() -> None:
    assert loans_beyond_the_cap([make_rescued(0), make_rescued(1)], 0.99) == {0, 1}
    assert loans_beyond_the_cap([make_rescued(0), make_rescued(1)], 1.0) == set()


def test_who_stays_under_a_cap_is_decided_by_hash_rank() -> None:
    """One of four borrowers stays, 400 steps: 100 each, standard deviation sqrt(400 * 3/16) = 8.7; 5 are 43."""
    stays = Counter()
    for start in range(0, 4000, 10):
        own = group([1, 0], position=start)
        borrowers = [make_rescued(p) for p in range(start + 1, start + 5)]
        beyond = loans_beyond_the_cap([own, *borrowers], 0.5)
        stays.update(p - start for p in range(start + 1, start + 5) if p not in beyond)
    assert sum(stays.values()) == 400
    assert all(abs(stays[index] - 100) < 43 for index in range(1, 5)), stays


@pytest.mark.parametrize(
    ("borrower", "lent", "message"),
    [
        (group([0, 1]), stored_answer(), "is solved"),
        (group([]), stored_answer(), "no response that could be replaced"),
        (group([0]), make_scored(0.0, step=1), "not correct"),
        (group([0]), stored_answer(position=1), "lent an answer to p1"),
        (group([0]), stored_answer(step=5), "response of step 5 in step 5"),
    ],
)
def test_a_loan_that_breaks_a_promise_is_refused(borrower, lent, message) -> None:
    with pytest.raises(AssertionError, match=message):
        with_borrowed(borrower, lent, seed=0, step=5)
