r"""Decimals beside exact values: 0.142857142857 is 1/7, 0.143 is not.

A decimal with at least ten digits that is the exact value rounded at its own last digit was computed from it. With
fewer it may as well be another number; then only `rewards.tolerance` makes them equal.
"""

from __future__ import annotations

import re
from fractions import Fraction

from megatron_ar3po.rewards.math.answers import Leaf
from megatron_ar3po.rewards.math.exact import TooLarge, Undefined, exact

MIN_DIGITS = 10  # from the first to the last that is not 0
_DECIMAL = re.compile(r"[-+]? ?([\d,]*)\.(\d+)", re.ASCII)


def rounding_error(text: str) -> Fraction | None:
    """Half of the last digit of a long decimal; None for any other text.

    >>> rounding_error("0.142857142857"), rounding_error("0.143"), rounding_error("1/7")
    (Fraction(1, 2000000000000), None, None)
    """
    if "." not in text:
        return None
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    digits = (match[1].replace(",", "") + match[2]).strip("0")
    return Fraction(1, 2 * 10 ** len(match[2])) if len(digits) >= MIN_DIGITS else None


def rounding_between(left: Leaf, right: Leaf) -> Fraction:
    """How far apart the two may be because one is a long decimal and the other an exact value that no decimal is: 0
    where both are decimals, or neither, or where the decimal could have been written out (1/1024)."""
    if "." not in left.text and "." not in right.text:
        return Fraction(0)
    for decimal, other in ((left, right), (right, left)):
        error = rounding_error(decimal.text)
        if error is not None and decimal.is_percent == other.is_percent:
            return Fraction(0) if "." in other.text or _is_finite_decimal(other) else error
    return Fraction(0)


def _is_finite_decimal(leaf: Leaf) -> bool:
    value = leaf.value
    if value is None and leaf.trees:
        try:
            value = exact(leaf.trees[0])
        except (Undefined, TooLarge):
            return False
    return value is not None and pow(10, value.denominator.bit_length(), value.denominator) == 0
