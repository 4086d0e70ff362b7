"""The last-number grader. Not exercised here: decoding and rewards (test_verifier.py)."""

from __future__ import annotations

import pytest

from megatron_ar3po.rewards.last_number import grade_last_number, last_number, plain_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1;5", "5"),
        ("5", "5"),
        (" 5\n", "5"),
        ("so it is 1,250.", "1,250"),
        ("first 3, then 4 apples", "4"),
        ("it is -7", "-7"),
        ("it is **12**", "12"),
        ("costs $12.50.", "12.50"),
        ("3-5", "5"),
        ("5;", None),
        ("1;5;", None),
        ("5x", None),
        ("x5", None),
        ("7/5", None),
        ("2^5", None),
        ("1.2.5", None),
        ("", None),
        ("none", None),
        ("5 and 6y", None),
    ],
)
def test_the_last_number_stands_alone_or_is_no_answer(text: str, expected: str | None) -> None:
    assert last_number(text) == expected


@pytest.mark.parametrize(
    "response", ["10", "1;15", "5;", "5 6", "55", "-5", "0.5", "5.01", "five", ""]
)
def test_nothing_but_five_counts_as_five(response: str) -> None:
    assert grade_last_number(response, "5").status != "correct"


@pytest.mark.parametrize("response", ["5", "1;5", "5.0", "05", "is 5.", "= 5"])
def test_spellings_of_five_count_as_five(response: str) -> None:
    assert grade_last_number(response, "5").status == "correct"


def test_a_very_long_run_of_digits_is_no_answer_and_takes_no_time() -> None:
    assert last_number("7" * 1_000_000) is None
    assert plain_number("7" * 1_000_000) is None


def test_a_ground_truth_that_is_no_number_is_an_error_not_an_incorrect() -> None:
    assert grade_last_number("5", "x+1").status == "error"
