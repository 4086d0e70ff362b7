"""`rewards.require_evaluated`: an answer that is equal and still holds the task earns nothing."""

from __future__ import annotations

import pytest

from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.rewards.math.grader import GradingOptions, grade_math
from megatron_ar3po.rewards.verifier import grading_options, verifier_version

STRICT = GradingOptions(is_answer=True, require_evaluated=True)
PLAIN = GradingOptions(is_answer=True)

WORKED_OUT = [  # (ground truth, answer)
    ("42", "42"),
    ("42", "42.0"),
    ("1/2", r"\frac12"),
    ("1/2", "3/6"),
    ("1/2", "0.5"),
    ("1/2", r"50\%"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"2\pi", r"2\pi"),
    (r"\frac{3\pi}{4}", r"\frac34\pi"),
    ("1500", r"1.5\times10^3"),
    ("1000", "10^3"),
    ("3/2", r"1\frac12"),
    ("-3/2", r"-1\frac12"),
    ("42", "x=17+25=42"),
    ("42", "17+25=42"),
    ("331", "m+n=275+56=331"),
    ("(1,2)", "(1,2)"),
    ("1,2", "2,1"),
    (r"3+\sqrt2, 3-\sqrt2", r"3\pm\sqrt2"),
    ("x^2+2x+1", "(x+1)^2"),
    ("3-2i", "-2i+3"),
    (r"\ln 2", r"\ln 2"),
    (r"1+\sqrt{2}", r"\sqrt2+1"),
    (r"\begin{pmatrix}2\\4\end{pmatrix}", "(2,4)"),
    (r"30^\circ", "30"),
    ("5 cm", "5"),
    (r"\frac13", r"0.\overline{3}"),
    (r"2^{25}\cdot 26!", r"2^{25} \cdot 26!"),
    (r"2^{25}\cdot 26!", r"26! \cdot 2^{25}"),
    ("B", "(B)"),
    ("yes", r"\text{Yes}"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"),
    ("e^2", "e^2"),
    (r"\sqrt[3]{2}", "2^{1/3}"),
    ("1/3", "0.3333333333"),
    ("6.02e23", r"6.02\cdot10^{23}"),
    ("-8", "-8"),
    (r"\pi\cdot 10^{50}", r"10^{50}\pi"),
    (r"\frac{5}{2}\pi", r"2\frac12\pi"),
]
A_TASK_STILL = [
    ("42", "17+25"),
    ("5050", r"\sum_{k=1}^{100}k"),
    ("42", r"\frac{84}{2}"),
    ("42", "84/2"),
    ("1/2", r"\sin 30^\circ"),
    ("3", r"\log_2 8"),
    ("7", r"\sqrt{49}"),
    (r"\frac{\pi}{4}", r"\arctan 1"),
    (r"42\pi", r"17\pi+25\pi"),
    (r"42\pi", r"6\cdot7\pi"),
    ("1024", "2^{10}"),
    ("120", "5!"),
    ("15", r"\binom62"),
    ("3/2", "1+1/2"),
    ("42", "x=17+25"),
    ("(1,2)", "(1,1+1)"),
    ("5,1", r"3\pm2"),
    ("5x", "2x+3x"),
    ("5-i", "(1+i)(2-3i)"),
    ("-1", "i^2"),
    (r"3+2\sqrt2", r"(1+\sqrt2)^2"),
    (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\frac13", r"\int_0^1 x^2dx"),
    ("(0,42)", "(0,17+25)"),
    ("x>42", "x>17+25"),
    ("0", "17-17"),
    ("-8", "3-11"),
    ("12", r"3\cdot4"),
    ("n(n+1)/2", r"\sum_{k=1}^{n}k"),
    ("6x", r"2\cdot3x"),
]


@pytest.mark.parametrize(("ground_truth", "answer"), WORKED_OUT)
def test_what_is_worked_out_counts(ground_truth: str, answer: str) -> None:
    assert grade_math(answer, ground_truth, STRICT).status == "correct"


@pytest.mark.parametrize(("ground_truth", "answer"), A_TASK_STILL)
def test_what_could_still_be_carried_out_does_not_count(ground_truth: str, answer: str) -> None:
    grade = grade_math(answer, ground_truth, STRICT)
    assert grade.status == "incorrect" and "not carried out" in grade.reason
    assert grade_math(answer, ground_truth, PLAIN).status == "correct"


def test_a_wrong_answer_stays_wrong_and_the_same_spelling_right() -> None:
    assert grade_math("43", "42", STRICT).status == "incorrect"
    assert grade_math("17 + 25", "17+25", STRICT).status == "correct"


def test_the_option_is_part_of_the_version() -> None:
    plain, strict = RewardsConfig(), RewardsConfig(require_evaluated=True)
    assert grading_options(strict).require_evaluated
    assert verifier_version(strict) == verifier_version(plain).replace(
        ":incorrect", ":evaluated:incorrect"
    )
