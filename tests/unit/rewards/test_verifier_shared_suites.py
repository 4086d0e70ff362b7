"""The verifier on cases that others wrote: agreement, false accepts, time. The folder is named by AR3PO_TEST_DATA; the
material is not part of the project."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import respelling

from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.math.grader import GradingOptions, grade_math
from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool

TIMEOUT_S = 5.0


def rows_of(name: str, subfolder: str = "verifier") -> list[dict[str, Any]]:
    folder = os.environ.get("AR3PO_TEST_DATA")
    path = Path(folder or "") / subfolder / name
    if not folder or not path.is_file():
        pytest.skip(f"AR3PO_TEST_DATA has no {subfolder}/{name}")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    if "AR3PO_TEST_DATA" not in os.environ:
        pytest.skip("AR3PO_TEST_DATA is not set")
    with VerifierPool(PoolSettings(num_workers=2, timeout_s=TIMEOUT_S)) as pool:
        yield pool


def results(pool: VerifierPool, rows: list[dict[str, Any]], *, is_answer: bool) -> list[bool]:
    field = "pred" if is_answer else "response"
    futures: list[Future[Grade]] = [
        pool.submit(row[field], row["gold"], is_answer=is_answer) for row in rows
    ]
    return [future.result(timeout=300).status == "correct" for future in futures]


def assert_agreement(
    rows: list[dict[str, Any]], accepted: list[bool], *, agreement: float, false_accepts: float
) -> None:
    wrong = [row["id"] for row, got in zip(rows, accepted, strict=True) if got != row["expected"]]
    wrongly_accepted = [
        row["id"] for row, got in zip(rows, accepted, strict=True) if got and not row["expected"]
    ]
    assert 1 - len(wrong) / len(rows) >= agreement, wrong
    assert len(wrongly_accepted) / len(rows) <= false_accepts, wrongly_accepted


def test_agreement_on_pairs_of_answers(pool: VerifierPool) -> None:
    rows = rows_of("pairs.jsonl")
    assert_agreement(
        rows, results(pool, rows, is_answer=True), agreement=0.985, false_accepts=0.003
    )


def test_agreement_on_pairs_in_running_text(pool: VerifierPool) -> None:
    rows = rows_of("pairs_free_text.jsonl")
    assert_agreement(
        rows, results(pool, rows, is_answer=True), agreement=0.995, false_accepts=0.003
    )


def test_agreement_on_whole_responses(pool: VerifierPool) -> None:
    rows = rows_of("responses.jsonl")
    assert_agreement(
        rows, results(pool, rows, is_answer=False), agreement=0.995, false_accepts=0.003
    )


def test_every_answer_of_the_reports_has_its_verdict() -> None:
    rows = rows_of("answers.jsonl", "reports")
    answer = GradingOptions(is_answer=True)
    accepted = [
        grade_math(
            row.get("response") or row["pred"], row["gold"], None if "response" in row else answer
        ).status
        == "correct"
        for row in rows
    ]
    assert [row for row, got in zip(rows, accepted, strict=True) if got != row["expected"]] == []


def test_an_ordinary_response_is_graded_within_twenty_milliseconds_of_processor_time() -> None:
    times = []
    for row in rows_of("responses.jsonl")[::2]:
        started = time.process_time()
        grade_math(row["response"], row["gold"])
        times.append(time.process_time() - started)
    assert statistics.quantiles(times, n=100)[98] <= 0.020


def test_hostile_inputs_are_answered_in_time_and_never_accepted(
    pool: VerifierPool, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    pool.wait_until_ready()
    for row in rows_of("stress.jsonl"):
        ground_truth, answer = (
            row[key].replace("{MARKER}", str(marker)) for key in ("gold", "pred")
        )
        for text, is_answer in ((answer, True), (f"\\boxed{{{answer}}}", False)):
            started = time.monotonic()
            grade = pool.submit(text, ground_truth, is_answer=is_answer).result(timeout=60)
            assert time.monotonic() - started < 2 * (TIMEOUT_S + 4), row["id"]
            assert row["expected"] is None or (grade.status == "correct") == row["expected"], row[
                "id"
            ]
    assert list(tmp_path.iterdir()) == []


def test_the_ground_truths_of_the_problem_sets_keep_their_meaning_in_every_spelling() -> None:
    """Equal spellings >= 98% accepted, and no false accept: another number, bracket, order, or a factor of 100."""
    folder = Path(os.environ.get("AR3PO_TEST_DATA", "")) / "problems"
    if not folder.is_dir():
        pytest.skip("AR3PO_TEST_DATA has no problems/")
    answers: dict[str, None] = {}
    for name in ("math500", "math_train_7k", "aime24", "amc23", "olympiadbench_en", "minerva_math"):
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        answers |= dict.fromkeys(
            json.loads(line)["answer"] for line in lines[:: 1 + len(lines) // 250]
        )
    options = GradingOptions(is_answer=True)
    num_equal, refused, accepted = 0, [], []
    for answer in answers:
        for name, changed in respelling.changes(answer, respelling.HARMLESS):
            num_equal += 1
            if grade_math(changed, answer, options).status != "correct":
                refused.append((name, answer, changed))
        for name, changed in respelling.changes(answer, respelling.HARMFUL):
            if grade_math(changed, answer, options).status == "correct":
                accepted.append((name, answer, changed))
    assert accepted == []
    assert num_equal > 5_000 and len(refused) <= 0.02 * num_equal, refused[:50]


def test_nearly_every_ground_truth_of_the_problem_sets_is_usable() -> None:
    """Grade-school and competition sets: what is refused there is broken."""
    from megatron_ar3po.rewards.math.grader import unusable_ground_truth

    folder = os.environ.get("AR3PO_TEST_DATA")
    if not folder or not (Path(folder) / "problems").is_dir():
        pytest.skip("AR3PO_TEST_DATA has no problems/")
    for name in ("math500", "aime24", "amc23", "olympiadbench_en", "minerva_math", "gsm8k_test"):
        lines = (
            (Path(folder) / "problems" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        )
        answers = [json.loads(line)["answer"] for line in lines]
        assert (
            sum(unusable_ground_truth(answer) is not None for answer in answers)
            <= len(answers) // 200
        ), name
