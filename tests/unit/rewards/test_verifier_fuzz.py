"""Inputs nobody thought of: no crash, no asymmetry, no two different numbers taken for one.

Not exercised here: time and memory (the pool limits both; test_verifier_pool.py). AR3PO_FUZZ_EXAMPLES asks for more
examples than `make test` has time for.
"""

from __future__ import annotations

import os
from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_ar3po.rewards.last_number import grade_last_number
from megatron_ar3po.rewards.math.extraction import answer_text, extract_answer
from megatron_ar3po.rewards.math.grader import GradingOptions, grade_math
from megatron_ar3po.rewards.math.tidy import tidy
from megatron_ar3po.rewards.math.words import words

ANSWER = GradingOptions(is_answer=True)
SHOWN = GradingOptions(is_answer=True, show_layers=True)
fuzz = settings(
    max_examples=int(os.environ.get("AR3PO_FUZZ_EXAMPLES", "150")),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

PIECES = [
    *words(
        r"\frac \sqrt \boxed \text \left( \right) \{ \} \pm \cup \in \le \ge \infty \pi \sin \log \cdot \times \\ & "
        r"\begin{pmatrix} \end{pmatrix} { } ( ) [ ] | $ $$ ^ _ ! % ° = < > , ; : . + - * / 0 1 2 3 10 100 1,000 .5 "
        r"0.5 x y n e i ab cm and or \circ \overline \angle percent 1/2 Answer: #### \n ½ × − √ π"
    ),
    *words(
        r"\mathbb{Z} \mathbb{R} (k\in\mathbb{Z}) \pmod \bmod (mod7) \over \choose \gcd( \max( C_ _5C_2 ^T ^\top "
        r"\setminus \cap "
        r"\begin{cases} \end{cases} \begin{array}{c} \end{array} \text{.} \text{if} "
        r"\dot{3} √2 ∛ ** ]0,1[ <1,2> 3:4 12:30 1011_2 "
        r"' \" ` k because since is year not but to °C m/s miles \hat{i} (B) B. "
        r"\infty -\infty \emptyset \not= \equiv \to"
    ),
    *words(
        "<answer> </answer> <think> </think> <|im_end|> </s> [EOS] <end_of_turn> \\input{x} \\foo{ m+n= f(x) \\mu "
        "[[1,2],[3,4]] [1;2] ;a=1,b=2;a=3,b=4 u^2_0 {h}_{j} million 0.142857142857 1/7 J/(kg h min 5' "
    ),
    " for all real numbers x",
    ", where n is an integer",
    "no solution",
    "does not exist",
    " (about 3)",
    " ",
    "\n",
    r"\text{ cm}",
    r"\frac{1}{2}",
    "x = ",
    r"\boxed{5}",
    "the answer is ",
]
latex = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
anything = st.one_of(latex, st.text(max_size=60))


@fuzz
@given(anything, anything)
def test_no_text_crashes_the_verifier_and_every_verdict_holds_in_both_directions(
    a: str, b: str
) -> None:
    grades = [grade_math(x, y, SHOWN) for x, y in ((a, b), (b, a))]
    verdicts = [grade.status == "correct" for grade in grades]
    # An equation may give the number asked for; no number stands for an equation.
    one_way = any("equation: it gives a number" in grade.tried for grade in grades)
    assert verdicts[0] == verdicts[1] or one_way
    assert grade_math(a, b).status in ("correct", "incorrect", "no_answer", "too_large")
    assert grade_last_number(a, b).status in ("correct", "incorrect", "no_answer", "error")


@fuzz
@given(anything)
def test_tidying_twice_is_tidying_once(text: str) -> None:
    once = tidy(text)
    assert grade_math(once, text, ANSWER).status != "error"
    assert isinstance(answer_text(text), str)
    extract_answer(text)


integers = st.integers(-(10**12), 10**12)
fractions = st.builds(Fraction, st.integers(-999, 999), st.integers(1, 999))
decimals = st.integers(-(10**9), 10**9).map(lambda n: Fraction(n, 10**4))
numbers = st.one_of(integers.map(Fraction), fractions, decimals)


@st.composite
def spelled(draw: st.DrawFn, value: Fraction) -> str:
    """The number in one of the ways that people write it."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    ways = [
        rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}",
        f"{sign}{size.numerator}/{size.denominator}",
    ]
    if size.denominator == 1:
        ways += [
            f"{sign}{size.numerator}",
            f"{sign}{size.numerator:,}",
            f"{sign}{size.numerator}.0",
        ]
        ways += [
            f"{sign}{size.numerator:,}".replace(",", r"\,"),
            f"{sign}{size.numerator:,}".replace(",", "{,}"),
        ]
    elif 10**4 % size.denominator == 0:
        ways += [f"{sign}{float(size):.4f}"] if size < 10**9 else []
        ways += [rf"{sign}{size.numerator * 10**4 // size.denominator} \cdot 10^{{-4}}"]
    if size > 1 and size.denominator > 1:
        whole, rest = divmod(size.numerator, size.denominator)
        ways.append(rf"{sign}{whole}\frac{{{rest}}}{{{size.denominator}}}")
    text = draw(st.sampled_from(ways))
    around = [
        "{}",
        "${}$",
        r"\boxed{{{}}}",
        "x = {}",
        "{}.",
        r"{} \text{{ cm}}",
    ]
    return draw(st.sampled_from(around)).format(text)


@fuzz
@given(st.data(), numbers)
def test_every_spelling_of_a_number_equals_every_other(
    data: st.DataObject, value: Fraction
) -> None:
    a, b = data.draw(spelled(value)), data.draw(spelled(value))
    assert grade_math(a, b, ANSWER).status == "correct", (a, b)


@fuzz
@given(st.data(), numbers, numbers)
def test_two_different_numbers_are_never_equal(
    data: st.DataObject, x: Fraction, y: Fraction
) -> None:
    for other in {y, x * 100, x / 100, x + Fraction(1, 10**4), -x, x + 1} - {x}:
        a, b = data.draw(spelled(x)), data.draw(spelled(other))
        assert grade_math(a, b, ANSWER).status != "correct", (a, b)


@fuzz
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_tuples_keep_their_order_and_lists_do_not(values: list[int], random: object) -> None:
    shuffled = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    written, other = (",".join(map(str, numbers)) for numbers in (values, shuffled))
    same = grade_math(f"({written})", f"({other})", ANSWER).status == "correct"
    assert same == (values == shuffled)
    assert grade_math(rf"\{{{written}\}}", f"{other} ", ANSWER).status == "correct"


@fuzz
@given(st.integers(-50, 50), st.integers(1, 50), st.sampled_from("(["), st.sampled_from(")]"))
def test_an_interval_equals_only_the_interval_with_its_own_ends(
    low: int, width: int, opening: str, closing: str
) -> None:
    high = low + width
    interval = f"{opening}{low},{high}{closing}"
    for other_opening in "([":
        for other_closing in ")]":
            other = f"{other_opening}{low}, {high}{other_closing}"
            equal = grade_math(interval, other, ANSWER).status == "correct"
            assert equal == ((opening, closing) == (other_opening, other_closing)), (
                interval,
                other,
            )
    signs = {"(": "<", "[": r"\le", ")": "<", "]": r"\le"}
    relation = f"{low} {signs[opening]} x {signs[closing]} {high}"
    assert grade_math(interval, relation, ANSWER).status == "correct", (interval, relation)
