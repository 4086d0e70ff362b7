"""Are two leaves the same? An answer's parts without a shape of their own: numbers, words, units, expressions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from megatron_ar3po.rewards.math import symbolic
from megatron_ar3po.rewards.math.answers import Leaf
from megatron_ar3po.rewards.math.numeric import expressions_equal
from megatron_ar3po.rewards.math.rounding import rounding_between
from megatron_ar3po.rewards.math.shapes import is_words
from megatron_ar3po.rewards.math.tidy import compact
from megatron_ar3po.rewards.math.trees import Node, variables
from megatron_ar3po.rewards.math.units import same_unit, split_unit
from megatron_ar3po.rewards.math.wording import is_said, said_alike, split_base

MAX_COMPARISONS = 4_000  # of leaves, in one pair of answers


class TooManyComparisons(RuntimeError):
    """The two answers have more parts than anyone would write."""


@dataclass
class LeafComparison:
    """One question of equality: its options, and what was tried to answer it."""

    tolerance: Fraction = Fraction(0)
    tried: list[str] = field(default_factory=list)
    num_leaves: int = 0  # compared so far

    def note(self, line: str) -> None:
        if len(self.tried) < 50:
            self.tried.append(line)

    def leaves_equal(self, a: Leaf, b: Leaf) -> bool:
        self.num_leaves += 1
        if self.num_leaves > MAX_COMPARISONS:
            raise TooManyComparisons
        a, b = _with_letter_units(a, b)
        if a.unit and b.trees and not b.unit and self._is_product(a, b):
            return True
        if b.unit and a.trees and not a.unit and self._is_product(b, a):
            return True
        a_unit, b_unit = ("percent" if x.is_percent else x.unit for x in (a, b))
        if not same_unit(a_unit, b_unit):
            self.note(f"unit: {a_unit} is not {b_unit}")
            return False
        if compact(a.text) == compact(b.text):
            return a.is_percent == b.is_percent or not (a.unit or b.unit) or a.value is not None
        if a.value is not None and b.value is not None:
            equal = self._values_equal(a.value, b.value, a.is_percent, b.is_percent)
            equal = equal or abs(a.value - b.value) <= rounding_between(a, b)
            self.note(f"number: {a.value} and {b.value} are {'equal' if equal else 'different'}")
            return equal
        if {a.text, b.text} == {"R", r"\mathbb{R}"}:
            return True
        if is_said(a.text) and is_said(b.text) and said_alike(a.text, b.text):
            self.note("words: the same")
            return True
        if is_words(a) or is_words(b):
            if said_alike(a.text, b.text):
                self.note("words: the same")
                return True
            if a.is_words or b.is_words or len(a.text) > 3 or len(b.text) > 3:
                self.note("words: different")
                if is_words(a) and is_words(b):
                    return False
        if (base := split_base(a.text)) or split_base(b.text):
            return base is not None and base == split_base(b.text)
        return self._expressions_equal(a, b)

    def _is_product(self, a: Leaf, b: Leaf) -> bool:
        """Whether the unit of one is the letters of the other: \\frac{1}{2}mg beside \\frac{mg}{2}."""
        if not a.product or not variables(b.trees[0]):
            return False
        whole = Leaf(a.product)
        return any(expressions_equal(x, y) for x in whole.trees for y in b.trees)

    def _values_equal(self, x: Fraction, y: Fraction, x_percent: bool, y_percent: bool) -> bool:
        if x_percent == y_percent:
            return abs(x - y) <= self.tolerance
        if y_percent:
            x, y = y, x
        return abs(x - y) <= self.tolerance or abs(x / 100 - y) <= self.tolerance

    def _expressions_equal(self, a: Leaf, b: Leaf) -> bool:
        if a.trees and b.trees:
            tolerance = max(self.tolerance, rounding_between(a, b))
            equal = any(
                expressions_equal(x, y, tolerance=tolerance)
                for left in a.trees
                for right in b.trees
                for x, y in _percent_readings(left, right, a.is_percent, b.is_percent)
            )
            self.note(
                f"expression: {a.text[:60]} and {b.text[:60]} are {'equal' if equal else 'different'}"
            )
            return equal
        if is_words(a) or is_words(b):
            return False
        return self.symbolic_equal(a.text, b.text)

    def symbolic_equal(self, left: str, right: str) -> bool:
        verdict = symbolic.equal(left, right)
        self.note(f"symbolic: {verdict.reason}")
        return verdict.equal


def _with_letter_units(a: Leaf, b: Leaf) -> tuple[Leaf, Leaf]:
    r""" "15 m^2" beside "15 \text{ m}^2": the letter is a unit because the other side says so."""
    if bool(a.unit) == bool(b.unit):
        return a, b
    with_unit, without = (a, b) if a.unit else (b, a)
    core, unit = split_unit(without.text, letters=True)
    if unit != with_unit.unit:
        return a, b
    read_again = Leaf(core, unit=unit)
    return (a, read_again) if a.unit else (read_again, b)


def _percent_readings(
    left: Node, right: Node, left_percent: bool, right_percent: bool
) -> list[tuple[Node, Node]]:
    if left_percent == right_percent:
        return [(left, right)]
    hundredth: Node = ("num", Fraction(1, 100))
    scaled = (
        (("mul", (left, hundredth)), right) if left_percent else (left, ("mul", (right, hundredth)))
    )
    return [(left, right), scaled]
