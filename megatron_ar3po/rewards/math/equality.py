"""Is this answer that answer? Layers, cheap ones first; every rule is symmetric.

    text        the same spelling after tidying
    number      both plain numbers: compared exactly
    shape       lists, tuples, intervals, sets, matrices, equations ... part by part
    expression  the same value at every probing point
    symbolic    what only a computer algebra system reads (sums, integrals, limits, matrix arithmetic)

Conventions: a bare comma list and a set are unordered, a tuple is ordered, open and closed ends differ. "x = 5" is 5.
x% is x/100, and is x when only the sign is missing on one side; two bare numbers a factor of 100 apart are never
equal. A unit may be missing on one side; two different units are unequal. Nothing is rounded unless a tolerance is set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from megatron_ar3po.rewards.math.answers import (
    Answer,
    Choice,
    Items,
    Leaf,
    Matrix,
    Named,
    Ratio,
    Relation,
    SetOperation,
    plain_value,
)
from megatron_ar3po.rewards.math.equations import is_number, stated_value
from megatron_ar3po.rewards.math.labels import labels_agree
from megatron_ar3po.rewards.math.leaves import LeafComparison
from megatron_ar3po.rewards.math.matrices import nested_rows
from megatron_ar3po.rewards.math.numeric import is_proportional
from megatron_ar3po.rewards.math.reading import read
from megatron_ar3po.rewards.math.real_sets import same_real_set
from megatron_ar3po.rewards.math.rounding import rounding_between, rounding_error
from megatron_ar3po.rewards.math.shapes import (
    as_latex,
    difference,
    is_clock,
    is_condition,
    is_constant,
    is_number_or_letter_in_brackets,
    name_of,
    repeats_a_label,
    reversed_relation,
    same_function_of_another_letter,
    same_trees,
    with_equal_qualifiers,
    without_repeats,
)
from megatron_ar3po.rewards.math.tidy import compact, tidy


class Comparison(LeafComparison):
    """Compares whole answers, part by part down to the leaves."""

    def equal(self, left: str, right: str) -> bool:
        """Whether two answers are the same."""
        plain = self._plain_numbers_equal(left.strip(" $\n"), right.strip(" $\n"))
        if plain is not None:
            return plain  # as most are, without the tidying
        a = tidy(left)
        b = a if left == right else tidy(right)
        if not a or not b:
            self.note("text: one side is empty")
            return False
        if a == b or compact(a) == compact(b):
            self.note("text: the same spelling")
            return True
        self.note("text: different spellings")
        plain = self._plain_numbers_equal(a, b)
        if plain is not None:
            return plain
        expected, found = read(a), read(b)
        return self.answers_equal(expected, found) or self._number_is_stated(expected, found)

    def _plain_numbers_equal(self, a: str, b: str) -> bool | None:
        """None when one of them is no plain number, or its commas may separate a list."""
        if "," in a or "," in b or (x := plain_value(a)) is None or (y := plain_value(b)) is None:
            return None
        equal = x == y
        if not equal and (self.tolerance or "." in a or "." in b):
            equal = abs(x - y) <= max(self.tolerance, rounding_between(Leaf(a), Leaf(b)))
        self.note(f"number: {x} and {y} are {'equal' if equal else 'different'}")
        return equal

    def _number_is_stated(self, expected: Answer, found: Answer) -> bool:
        """Whether the answer is an equation that gives the number asked for. Not the other way round: no number stands
        for the equation x + y = 3."""
        if not isinstance(found, Relation) or not isinstance(expected, Leaf):
            return False
        value = stated_value(found) if is_number(expected) else None
        if value is None:
            return False
        self.note("equation: it gives a number")
        return self.answers_equal(expected, value)

    # --- shapes

    def answers_equal(self, a: Answer, b: Answer) -> bool:
        equal = self._shapes_equal(a, b)
        self.note(f"shape: {name_of(a)} and {name_of(b)} are {'equal' if equal else 'different'}")
        return equal

    def _shapes_equal(self, a: Answer, b: Answer) -> bool:
        if isinstance(a, Leaf) and isinstance(b, Leaf):
            return self.leaves_equal(a, b)
        plain = with_equal_qualifiers(a, b)
        if plain != (a, b):
            return self.answers_equal(*plain)
        if isinstance(a, Choice) or isinstance(b, Choice):
            return self._choices_equal(a, b)
        if isinstance(a, Named) or isinstance(b, Named):
            return self._named_equal(a, b)
        if type(a) is type(b) and _SAME_SHAPE[type(a)](self, a, b):
            return True
        for first, second in ((a, b), (b, a)):
            if (
                isinstance(first, Leaf)
                and isinstance(second, Items)
                and self._leaf_equals_items(first, second)
            ):
                return True
            if (
                isinstance(first, Matrix)
                and isinstance(second, Items)
                and self._vector_equals(first, second)
            ):
                return True
            if isinstance(first, Relation) and not isinstance(second, Relation | Named):
                value = self._chain_value(first)
                if value is not None:
                    return self.answers_equal(value, second)
            if (
                isinstance(first, Ratio)
                and isinstance(second, Leaf)
                and self._ratio_equals(first, second)
            ):
                return True
            if isinstance(first, Matrix) and isinstance(second, Leaf) and r"\begin" in second.text:
                return self.symbolic_equal(as_latex(first), second.text)
        return type(a) is not type(b) and bool(same_real_set(a, b))

    def _items_equal(self, a: Items, b: Items) -> bool:
        if {a.joined_by, b.joined_by} == {"and", "or"} and any(map(is_condition, a.items)):
            return bool(same_real_set(a, b))  # x > 1 and x < 3; x > 1 or x < 3
        loose = ("", "{")
        for one, other in ((a, b), (b, a)):  # the set of a single point, and the point
            if one.opening == "{" and len(one.items) == 1 and other.opening == "(":
                return self.answers_equal(one.items[0], other)
        if len(a.items) != len(b.items):
            first, second = without_repeats(a), without_repeats(b)
            shorter = (
                a.opening in loose
                and b.opening in loose
                and len(first.items) == len(second.items) > 1
            )
            return shorter and (first, second) != (a, b) and self._items_equal(first, second)
        if a.opening in loose and b.opening in loose:
            return self._can_be_matched(a.items, b.items)
        if (a.opening, a.closing) == (b.opening, b.closing):
            if all(isinstance(item, Named) for item in (*a.items, *b.items)):
                return self._can_be_matched(a.items, b.items)
            return self._in_order(a.items, b.items)
        # A tuple whose parentheses were forgotten keeps its order; "-3 or 3" and "x=1, x=2" are none.
        if "or" in (a.joined_by, b.joined_by) or repeats_a_label(a) or repeats_a_label(b):
            return False
        return (
            {a.opening, b.opening} == {"", "("}
            and {a.closing, b.closing} == {"", ")"}
            and self._in_order(a.items, b.items)
        )

    def _in_order(self, left: Sequence[Answer], right: Sequence[Answer]) -> bool:
        return len(left) == len(right) and all(
            self.answers_equal(x, y) for x, y in zip(left, right, strict=True)
        )

    def _can_be_matched(self, left: Sequence[Answer], right: Sequence[Answer]) -> bool:
        """Whether the two can be paired off. Names on one side only keep their order ("x=1, y=2" is "1, 2")."""
        named = [sum(isinstance(item, Named) for item in side) for side in (left, right)]
        if (
            sorted(named) == [0, len(left)]
            and len({item.label for item in (*left, *right) if isinstance(item, Named)}) > 1
        ):
            return self._in_order(left, right)
        values = [[item.value if isinstance(item, Leaf) and not item.unit and not item.is_percent else None
                   for item in side] for side in (left, right)]  # fmt: skip
        if not self.tolerance and all(v is not None for side in values for v in side):
            if sorted(v for v in values[0] if v is not None) == sorted(
                v for v in values[1] if v is not None
            ):
                return True
            if not any(rounding_error(x.text) for x in (*left, *right) if isinstance(x, Leaf)):
                return False
        partner: dict[int, int] = {}

        def find_partner(i: int, seen: set[int]) -> bool:
            for j, item in enumerate(right):
                if j not in seen and self.answers_equal(left[i], item):
                    seen.add(j)
                    if j not in partner or find_partner(partner[j], seen):
                        partner[j] = i
                        return True
            return False

        return all(find_partner(i, set()) for i in range(len(left)))

    def _matrices_equal(self, a: Matrix, b: Matrix) -> bool:
        return len(a.rows) == len(b.rows) and all(
            self._in_order(x, y) for x, y in zip(a.rows, b.rows, strict=True)
        )

    def _vector_equals(self, matrix: Matrix, items: Items) -> bool:
        """A single row or column against a tuple, or any matrix against nested lists, row by row."""
        nested = nested_rows(items)
        if nested is not None:
            return self._matrices_equal(matrix, nested)
        if items.opening not in ("(", "[") or (items.opening, items.closing) not in (
            ("(", ")"),
            ("[", "]"),
        ):
            return False
        if len(matrix.rows) == 1:
            return self._in_order(matrix.rows[0], items.items)
        return all(len(row) == 1 for row in matrix.rows) and self._in_order(
            [row[0] for row in matrix.rows], items.items
        )

    def _leaf_equals_items(self, leaf: Leaf, items: Items) -> bool:
        if leaf.groups and len(leaf.groups) == len(items.items) and not items.opening:
            return self._can_be_matched([Leaf(group) for group in leaf.groups], items.items)
        if leaf.text == r"\emptyset":
            return not items.items
        if items.joined_by == "or" and not items.opening:  # two spellings of one value
            return all(self.answers_equal(leaf, item) for item in items.items)
        is_wrapped = items.opening in ("", "{") or is_number_or_letter_in_brackets(items)
        return is_wrapped and len(items.items) == 1 and self.answers_equal(leaf, items.items[0])

    def _ratios_equal(self, a: Ratio, b: Ratio) -> bool:
        """Part by part, or in proportion; times of the day are not reduced."""
        if self._in_order(a.parts, b.parts):
            return True
        left, right = (
            [part.value for part in side.parts if isinstance(part, Leaf) and part.value]
            for side in (a, b)
        )
        return (
            len(left) == len(a.parts) == len(right) == len(b.parts)
            and not (is_clock(a) or is_clock(b))
            and len({x / y for x, y in zip(left, right, strict=True)}) == 1
        )

    def _ratio_equals(self, ratio: Ratio, leaf: Leaf) -> bool:
        values = [part.value if isinstance(part, Leaf) else None for part in ratio.parts]
        if len(values) != 2 or leaf.value is None or values[0] is None or not values[1]:
            return False
        return not is_clock(ratio) and values[0] / values[1] == leaf.value

    def _operations_equal(self, a: SetOperation, b: SetOperation) -> bool:
        if a.sign != b.sign:
            equal = False
        elif a.sign == "setminus":
            equal = self._in_order(a.parts, b.parts)
        else:
            equal = len(a.parts) == len(b.parts) and self._can_be_matched(a.parts, b.parts)
        return equal or bool(same_real_set(a, b))

    def _choices_equal(self, a: Answer, b: Answer) -> bool:
        if isinstance(a, Choice) and isinstance(b, Choice):
            return a.letter == b.letter
        choice, other = (a, b) if isinstance(a, Choice) else (b, a)
        assert isinstance(choice, Choice)
        if isinstance(other, Leaf) and other.text == choice.letter:
            return True
        return self.answers_equal(choice.rest, other)

    # --- equations

    def _named_equal(self, a: Answer, b: Answer) -> bool:
        if isinstance(a, Named) and isinstance(b, Named):
            if labels_agree(a.label, b.label):
                return self.answers_equal(a.value, b.value)
            if same_function_of_another_letter(a, b):
                self.note("expression: the same function of another letter")
                return True
            return (
                a.relation is not None
                and b.relation is not None
                and self._relations_equal(a.relation, b.relation)
            )
        named, other = (a, b) if isinstance(a, Named) else (b, a)
        assert isinstance(named, Named)
        if isinstance(other, Relation):
            if named.relation is not None and self._relations_equal(named.relation, other):
                return True
            return set(other.signs) != {"="} and bool(same_real_set(named, other))
        return self.answers_equal(named.value, other)

    def _chain_value(self, chain: Relation) -> Answer | None:
        """What "2 + 2 = 4" says: members that are the same number, or the same for all values of the letters."""
        leaves = [member for member in chain.members if isinstance(member, Leaf)]
        if len(leaves) < len(chain.members) or set(chain.signs) != {"="}:
            return None
        same = all(self.leaves_equal(x, y) for x, y in itertools.pairwise(leaves))
        return leaves[-1] if same else None

    def _relations_equal(self, a: Relation, b: Relation) -> bool:
        if all(set(side.signs) == {"="} and is_constant(side) for side in (a, b)):
            return same_trees(
                a, b
            )  # "log_6 216 = 3" and "log_3 27 = 3" are both true, and different
        if len(a.signs) == len(b.signs) == 1:
            proportional = self._are_proportional(a, b)
            if proportional is not None:
                return proportional
        for other in (b, reversed_relation(b)):
            if a.signs == other.signs and self._in_order(a.members, other.members):
                return True
        is_equation = set(a.signs) == {"="} or set(b.signs) == {"="}
        return not is_equation and bool(same_real_set(a, b))

    def _are_proportional(self, a: Relation, b: Relation) -> bool | None:
        """Whether two relations say the same about left - right. None: not to be seen this way."""
        first, second = difference(a), difference(b)
        if first is None or second is None:
            return None
        if first[1] != second[1]:
            return None
        sign = is_proportional(first[0], second[0])
        if sign is None:
            return None
        return True if first[1] in ("=", "ne") else sign > 0


_SAME_SHAPE: dict[type, Callable[..., bool]] = {
    Items: Comparison._items_equal,
    Matrix: Comparison._matrices_equal,
    Ratio: Comparison._ratios_equal,
    SetOperation: Comparison._operations_equal,
    Relation: Comparison._relations_equal,
}
