r"""Equations and lists of equations as answers: what they say, when they are held against a number or a tuple."""

from __future__ import annotations

import re

from megatron_ar3po.rewards.math.answers import Answer, Items, Leaf, Named, Relation
from megatron_ar3po.rewards.math.known_names import FUNCTIONS
from megatron_ar3po.rewards.math.numeric import constants_equal
from megatron_ar3po.rewards.math.trees import Node, variables

_VALUES_OF_FUNCTIONS = frozenset(FUNCTIONS) - {"abs", "sqrt", "floor", "ceil", "sgn", "exp"}
_NAMED_QUANTITY = re.compile(
    r"\\(?:det|dim|deg|arg|max|min|sup|inf|gcd|lcm|lim|Pr|ker)(?![A-Za-z])|\\text ?\{[^{}]*[A-Za-z]{2}"
)


def stated_value(relation: Relation) -> Leaf | None:
    r"""The number that an equation gives as the answer: m+n = 331, \sin A = 3/5, AB + BC = 5 + 8 = 13.

    Its left side holds two letters or more, is a value of a function or a named quantity, or two equal numbers follow
    it. Not 2x = 10, which says that x is 5, nor x^2 = 4; nor x + y = 0, which is how curves are written.
    """
    members = [member for member in relation.members if isinstance(member, Leaf)]
    if set(relation.signs) != {"="} or len(members) < len(relation.members):
        return None
    left, *others = members
    numbers = [member for member in others if is_number(member)]
    if not numbers or numbers[-1] is not others[-1] or is_number(left):
        return None
    value = numbers[-1]
    if any(not _same_number(value, number) for number in numbers[:-1]):
        return None
    tree = left.trees[0] if left.trees else None
    if tree is None:
        return value if _NAMED_QUANTITY.match(left.text) else None
    if tree[0] == "fn" and tree[1] in _VALUES_OF_FUNCTIONS:
        return value
    letters = variables(tree)
    if _is_multiple_of_a_letter(tree) or _same_number(value, Leaf("0")):
        return None
    return value if len(letters) > 1 or (letters and len(numbers) > 1) else None


def is_number(leaf: Leaf) -> bool:
    """Whether it is a constant, with or without a unit."""
    return leaf.value is not None or bool(leaf.trees and not variables(leaf.trees[0]))


def _same_number(a: Leaf, b: Leaf) -> bool:
    if a.value is not None and b.value is not None:
        return a.value == b.value
    return constants_equal(a.trees[0], b.trees[0])


def _is_multiple_of_a_letter(tree: Node) -> bool:
    """2x, -x, x/2: one unknown and numbers around it."""
    if tree[0] == "sym":
        return True
    if tree[0] == "mul":
        others = [factor for factor in tree[1] if variables(factor)]
        return len(others) == 1 and _is_multiple_of_a_letter(others[0])
    return tree[0] == "div" and not variables(tree[2]) and _is_multiple_of_a_letter(tree[1])


def group_assignments(listed: Items) -> Items:
    """a=3, b=4; a=5, b=4 is the list of two solutions, each a tuple of its named values in the order in which the first
    one names them."""
    named = [item for item in listed.items if isinstance(item, Named)]
    labels = list(dict.fromkeys(item.label for item in named))
    size = len(labels)
    if len(named) < len(listed.items) or size < 2 or len(named) == size or len(named) % size:
        return listed
    solutions: list[Answer] = []
    for start in range(0, len(named), size):
        by_label = {item.label: item for item in named[start : start + size]}
        if len(by_label) < size:
            return listed
        values = tuple(by_label[label] for label in labels)
        solutions.append(Items(values, opening="(", closing=")"))
    return Items(tuple(solutions), joined_by=listed.joined_by)
