"""The plainest verifier: the last number of the response equals the ground truth.

Only integers and decimals count, as whole words: in "10" there is no 0, and "5x", "5/2" or a trailing "5;" hold no
answer at all. Numbers are compared exactly, so "5.0" equals "5" and nothing is ever rounded. It reads in microseconds
and needs no process of its own.
"""

from __future__ import annotations

import re
from fractions import Fraction

from megatron_ar3po.rewards.grade import Grade

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_PLAIN_NUMBER = re.compile(rf"[-+]?(?:{_NUMBER})", re.ASCII)
# The last digit of the text must belong to this: a number with nothing glued to it on either side.
_LAST_NUMBER = re.compile(
    rf"(?<![\w.,^/%\\])(?P<number>(?:(?<![\w)\]}}])[-+])?(?:{_NUMBER}))(?=[.,!?:]*(?:[\s)\]}}*$\"'_]|$))",
    re.ASCII,
)
_MAX_DIGITS = 400  # longer runs of digits are no answer, and converting them takes quadratic time


def last_number(text: str) -> str | None:
    """The last number of the text, or None when its last digits are not a number that stands alone.

    >>> last_number("1;5"), last_number("so it is 1,250."), last_number("5x"), last_number("1;5;")
    ('5', '1,250', None, None)
    """
    tail = text[-_MAX_DIGITS:]
    numbers = list(_LAST_NUMBER.finditer(tail))
    last = numbers[-1] if numbers else None
    if last is None or re.search(r"\d", tail[last.end() :]):
        return None
    if last.start() == 0 and len(text) > len(tail):
        return None  # it may begin before the window
    return last["number"]


def plain_number(text: str) -> Fraction | None:
    """The exact value of an integer or decimal, or None when the text is anything else."""
    text = text.strip()
    if len(text) > _MAX_DIGITS or not _PLAIN_NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def grade_last_number(response: str, ground_truth: str) -> Grade:
    expected = plain_number(ground_truth)
    if expected is None:
        return Grade(
            status="error", reason=f"the ground truth {ground_truth[:80]!r} is not a plain number"
        )
    found = last_number(response)
    if found is None:
        return Grade(status="no_answer", reason="the response does not end in a number")
    if plain_number(found) == expected:
        return Grade(
            status="correct", extracted=found, reason="the last number equals the ground truth"
        )
    return Grade(
        status="incorrect",
        extracted=found,
        reason=f"the last number {found} is not the ground truth {ground_truth}",
    )
