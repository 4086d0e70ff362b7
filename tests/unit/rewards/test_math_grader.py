"""The verifier's own cases (verifier_cases.py, answer_spellings.tsv, response_verdicts.jsonl).

Not exercised here: the pool's limits (test_verifier_pool.py), inputs nobody thought of (test_verifier_fuzz.py).
"""

from __future__ import annotations

import doctest
import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import respelling
import verifier_cases as cases
from spelling_cases import Spelling, read_responses, read_spellings

from megatron_ar3po.rewards.math.grader import GradingOptions, grade_math, unusable_ground_truth
from megatron_ar3po.rewards.math.words import words
from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool

ANSWER = GradingOptions(is_answer=True)
SPELLINGS = read_spellings()
GROUPS = [
    name
    for name in dir(cases)
    if name.isupper() and name not in ("RESPONSES", "HOSTILE", "EQUAL", "DIFFERENT")
]


def is_equal(answer: str, ground_truth: str, options: GradingOptions = ANSWER) -> bool:
    return grade_math(answer, ground_truth, options).status == "correct"


@pytest.mark.parametrize("group", GROUPS)
def test_each_pair_gets_its_verdict_in_both_directions(group: str) -> None:
    expected = not group.startswith("DIFFERENT")
    wrong = [
        (answer, ground_truth)
        for pair in getattr(cases, group)
        for answer, ground_truth in (pair, pair[::-1])
        if is_equal(answer, ground_truth) != expected
    ]
    assert wrong == []


def test_each_response_gets_its_verdict() -> None:
    wrong = [
        (response, ground_truth)
        for response, ground_truth, expected in cases.RESPONSES
        if (grade_math(response, ground_truth).status == "correct") != expected
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", sorted({spelling.kind for spelling in SPELLINGS}))
def test_an_answer_equals_its_spellings_and_nothing_else(kind: str) -> None:
    """Asked in both directions, and inside the box of a response. An equation may answer what asks for a number; a
    number never answers what asks for an equation."""
    is_one_way = kind == "equation for a number"

    def verdicts(spelling: Spelling) -> set[bool]:
        _, ground_truth, answer, _ = spelling
        return {
            is_equal(answer, ground_truth),
            is_equal(ground_truth, answer) != is_one_way,
            is_equal(rf"Hence it is \boxed{{{answer}}}.", ground_truth, GradingOptions()),
        }

    of_kind = [spelling for spelling in SPELLINGS if spelling.kind == kind]
    assert [s for s in of_kind if verdicts(s) != {s.is_equal}] == []


def test_harmless_changes_change_nothing_and_harmful_ones_do() -> None:
    answers = {spelling.ground_truth for spelling in SPELLINGS}
    answers |= {ground_truth for ground_truth, _ in cases.EQUAL if ground_truth.isascii()}
    answers -= {"**5**", r"\\frac{5}{6}"}
    wrong = [
        (name, answer, changed)
        for answer in sorted(answers)
        for kinds, is_same in ((respelling.HARMLESS, True), (respelling.HARMFUL, False))
        for name, changed in respelling.changes(answer, kinds)
        if is_equal(changed, answer) != is_same
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("response", "ground_truth", "expected"), [case[1:] for case in read_responses()]
)
def test_the_final_answer_is_found_however_it_is_announced(
    response: str, ground_truth: str, expected: bool
) -> None:
    assert (grade_math(response, ground_truth).status == "correct") == expected


def test_no_two_tables_judge_the_same_pair_differently() -> None:
    equal = {(s.ground_truth, s.answer) for s in SPELLINGS if s.is_equal} | {*cases.EQUAL}
    different = {(s.ground_truth, s.answer) for s in SPELLINGS if not s.is_equal}
    different |= {*cases.DIFFERENT}
    assert equal & (different | {pair[::-1] for pair in different}) == set()


@pytest.mark.parametrize(
    ("response", "answer_format", "expected"),
    [
        (r"\boxed{5}", "boxed", "correct"),
        (r"\boxed{5", "boxed", "no_answer"),
        ("Answer: 5", "boxed", "no_answer"),
        ("Answer: 5", "answer_line", "correct"),
        ("so the answer is 5", "answer_line", "no_answer"),
        (r"\boxed{5}", "answer_line", "no_answer"),
        ("#### 5", "hashes", "correct"),
        ("it is 5", "hashes", "no_answer"),
        ("<answer>5</answer>", "answer_tag", "correct"),
        ("<answer>5", "answer_tag", "no_answer"),
        (r"\boxed{5}", "answer_tag", "no_answer"),
    ],
)
def test_the_strict_mode_knows_one_mark_and_no_second_chance(
    response: str, answer_format: str, expected: str
) -> None:
    options = GradingOptions(answer_format=answer_format, strict=True)  # type: ignore[arg-type]
    assert grade_math(response, "5", options).status == expected


def test_without_the_fallback_an_unmarked_answer_is_none() -> None:
    assert grade_math("there are 5 of them", "5").status == "correct"
    assert (
        grade_math("there are 5 of them", "5", GradingOptions(fallback=False)).status == "no_answer"
    )


def test_a_marked_answer_is_told_from_an_unmarked_one() -> None:
    assert grade_math(r"\boxed{6}", "5").is_marked
    assert not grade_math("there are 5 of them", "5").is_marked


def test_numbers_are_exact_unless_a_tolerance_is_set() -> None:
    tolerant = GradingOptions(is_answer=True, tolerance="0.1")
    assert not is_equal("2.45", "2.4")
    assert is_equal("2.45", "2.4", tolerant)
    assert is_equal(r"\sqrt{6}", "2.4", tolerant)
    assert is_equal("(1, 2.45)", "(1, 2.4)", tolerant)
    assert not is_equal("2.51", "2.4", tolerant)


@pytest.mark.parametrize(
    "text", ["", "  ", r"\boxed{}", "7" * 100_000, "(1,", r"\oslash ???", r"\input{a}1"]
)
def test_an_unusable_ground_truth_is_named(text: str) -> None:
    assert unusable_ground_truth(text)


@pytest.mark.parametrize(
    "text",
    [
        "5",
        r"\frac{1}{2}",
        "(1,2)",
        "x > 5",
        "Tuesday",
        r"\{1,2\}",
        "4210_7",
        "10:30 am",
        r"\sum_{k=1}^{n} k^k",
    ],
)
def test_a_usable_ground_truth_passes(text: str) -> None:
    assert unusable_ground_truth(text) is None


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(
        PoolSettings(num_workers=1, timeout_s=2.0, memory_bytes=512 * 1024**2)
    ) as pool:
        pool.wait_until_ready()
        yield pool


def test_hostile_inputs_are_refused_in_time_and_leave_no_trace(
    pool: VerifierPool, tmp_path: Path
) -> None:
    """As an answer, as a response in a box, and as the ground truth."""
    marker = tmp_path / "marker"
    for hostile, other in cases.HOSTILE:
        hostile = hostile.replace("{MARKER}", str(marker))
        for text, ground_truth, is_answer in (
            (hostile, other, True),
            (f"The answer is {hostile} \\boxed{{{hostile}}}", other, False),
            (other, hostile, True),
        ):
            started = time.monotonic()
            grade = pool.submit(text, ground_truth, is_answer=is_answer).result(timeout=30)
            assert grade.status != "correct", (text[:80], ground_truth[:80], grade)
            # Twice 2 s, a second until a deaf worker is killed, and what a busy machine needs to notice
            assert time.monotonic() - started < 2 * (2.0 + 1.0 + 3.0), (
                text[:80],
                ground_truth[:80],
            )
    assert not marker.exists() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module",
    words(
        "math.answers math.compound_units math.evaluated math.expression math.extraction math.foreign math.labels "
        "math.rounding math.spoken math.tags math.tidy math.unit_names math.units math.words grade last_number verifier"
    ),
)
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"megatron_ar3po.rewards.{module}"))
    assert results.attempted > 0 and results.failed == 0
