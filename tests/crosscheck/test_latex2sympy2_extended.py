"""The verifier's last layer where latex2sympy2_extended stands in for latex2sympy2: the same verdicts, and still
nothing is executed. Not covered here: what either library reads by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crosscheck.apart import installed_apart
from unit.rewards import verifier_cases as cases

from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool

pytestmark = pytest.mark.crosscheck

REQUIREMENTS = Path(__file__).parent / "latex2sympy2_extended_requirements.txt"


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    """Workers that find the other library first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed_apart("latex2sympy2_extended", REQUIREMENTS))
        with VerifierPool(PoolSettings(num_workers=1, timeout_s=5.0)) as pool:
            pool.wait_until_ready()
            yield pool


def test_it_is_the_only_reader_of_these_workers(pool: VerifierPool) -> None:
    """Both names stand in the reason when neither reads a text: only one does here."""
    grade = pool.submit(r"\sum_{k=1}^{10} k \oslash", "55", is_answer=True).result(timeout=60)
    assert grade.status == "incorrect"
    assert "latex2sympy2_extended: " in grade.reason and "latex2sympy2: " not in grade.reason


@pytest.mark.parametrize(("pairs", "are_equal"), [("EQUAL", True), ("DIFFERENT", False)])
def test_the_own_cases_get_the_same_verdicts(
    pool: VerifierPool, pairs: str, are_equal: bool
) -> None:
    both_ways = [
        pair for left, right in getattr(cases, pairs) for pair in ((left, right), (right, left))
    ]
    grades = [pool.submit(text, gold, is_answer=True) for gold, text in both_ways]
    wrong = [
        pair
        for pair, grade in zip(both_ways, grades, strict=True)
        if (grade.result(timeout=60).status == "correct") != are_equal
    ]
    assert wrong == []


def test_hostile_inputs_leave_no_trace(pool: VerifierPool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for text, gold in cases.HOSTILE:
        grade = pool.submit(text.replace("{MARKER}", str(marker)), gold, is_answer=True).result(
            timeout=60
        )
        assert grade.status != "error", (text[:80], grade.reason)
    assert list(tmp_path.iterdir()) == []
