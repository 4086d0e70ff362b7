"""Rational values of syntax trees, exact and bounded in size before they are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from megatron_ar3po.rewards.math.trees import Node

MAX_BITS = 20_000  # of an exact number
MAX_FACTORIAL = 1_500


class Undefined(ArithmeticError):
    """No value here: division by zero, a pole, an argument outside the domain."""


class TooLarge(ArithmeticError):
    """A value too big to write out; what holds it is not compared by value."""


def exact(node: Node) -> Fraction | None:
    """The rational value, or None when it is irrational, symbolic, or not seen to be rational without approximating."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind in ("sym", "const"):
        return None
    if kind == "add" or kind == "mul":
        return _fold(node[1], kind)
    if kind == "fn":
        return _exact_function(node[1], node[2])
    left, right = exact(node[1]), exact(node[2])
    if left is None or right is None:
        return None
    if kind == "div":
        if right == 0:
            raise Undefined("division by zero")
        return _require_bounded(left / right)
    if kind == "pow":
        return _exact_power(left, right)
    return _exact_root(right, left)


def _fold(nodes: Sequence[Node], kind: str) -> Fraction | None:
    total = Fraction(0 if kind == "add" else 1)
    for node in nodes:
        value = exact(node)
        if value is None:
            return None
        total = _require_bounded(total + value if kind == "add" else total * value)
    return total


def _require_bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("an exact number with too many digits")
    return value


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _exact_root(base, Fraction(exponent.denominator)) if base >= 0 else None
        return None if root is None else _exact_power(root, Fraction(exponent.numerator))
    power = exponent.numerator
    if base == 0 and power <= 0:
        raise Undefined("zero to a power that is not positive")
    if abs(base) == 1:
        return base if power % 2 else Fraction(1)
    if base:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(power) * bits > MAX_BITS:
            raise TooLarge("a power with too many digits")
    return base**power


def _exact_root(value: Fraction, index: Fraction) -> Fraction | None:
    if index.denominator != 1 or not 1 <= index <= 64:
        return None
    degree = index.numerator
    if value < 0:
        positive = _exact_root(-value, index) if degree % 2 else None
        return None if positive is None else -positive
    over, under = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if over is None or under is None else Fraction(over, under)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
    else:
        root = (
            round(2 ** (math.log2(value) / degree))
            if 0 < value.bit_length() < 900
            else value
            if value < 2
            else -1
        )
    return root if root >= 0 and root**degree == value else None


def _exact_function(name: str, arguments: Sequence[Node]) -> Fraction | None:
    values = [value for argument in arguments if (value := exact(argument)) is not None]
    if len(values) < len(arguments):
        return None
    value = values[0]
    if name == "abs":
        return abs(value)
    if name == "floor":
        return Fraction(math.floor(value))
    if name == "ceil":
        return Fraction(math.ceil(value))
    if name == "factorial" and value.denominator == 1 and value >= 0:
        if value > MAX_FACTORIAL:
            raise TooLarge("a factorial with too many digits")
        return Fraction(math.factorial(value.numerator))
    if name == "binomial":
        return _exact_binomial(value, values[1])
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name == "mod":
        return value % values[1] if values[1] > 0 else None
    if name in ("gcd", "lcm") and all(v.denominator == 1 for v in values):
        whole = [v.numerator for v in values]
        return _require_bounded(Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole)))
    return None


def _exact_binomial(over: Fraction, under: Fraction) -> Fraction | None:
    if over.denominator != 1 or under.denominator != 1 or not 0 <= under <= over:
        return None
    if over.numerator.bit_length() * min(under, over - under) > MAX_BITS:
        raise TooLarge("a binomial with too many digits")
    return Fraction(math.comb(over.numerator, under.numerator))
