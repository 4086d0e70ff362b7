r"""Sets of real numbers, however they are written: an interval, a union, an inequality, x \in S.

Two of them are equal when they have the same members. Membership changes only at the critical numbers (the ends of the
intervals, the zeros of the polynomials in the inequalities), so it is enough to ask at every critical number, between
each two of them, and beyond both ends.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_ar3po.rewards.math.answers import Answer, Items, Leaf, Named, Relation, SetOperation
from megatron_ar3po.rewards.math.exact import TooLarge, Undefined
from megatron_ar3po.rewards.math.labels import is_label, label_name, labels_agree
from megatron_ar3po.rewards.math.numeric import DIGITS, _context, approximate
from megatron_ar3po.rewards.math.trees import Node, variables

_ctx = _context(DIGITS)
_NOISE = _ctx.mpf(10) ** -25
_MAX_CRITICAL = 64
_MAX_DEGREE = 1  # of an inequality that is solved: "x^2 < 4" only restates the question


class NotASet(ValueError):
    """The answer is not a set of real numbers."""


@dataclass(frozen=True)
class RealSet:
    has: Callable[[Any], bool]
    critical: tuple[Any, ...]
    variable: str  # the letter of its inequality, '' when it is written without one

    @property
    def is_trivial(self) -> bool:
        """Everything or nothing."""
        return len({self.has(x) for x in _witnesses(self.critical)}) == 1


def same_real_set(left: Answer, right: Answer) -> bool | None:
    """None when one of the two is not a set of real numbers, or they speak of different letters."""
    try:
        a, b = real_set(left), real_set(right)
    except NotASet:
        return None
    names = {a.variable, b.variable} - {""}
    if len(names) > 1 and not ("y" in names and labels_agree(a.variable, b.variable)):
        return None  # y may stand for f(x), g(x) may not
    try:
        if a.variable and b.variable and a.is_trivial:
            return None  # that both have no solution does not make two inequalities one
        return all(a.has(x) == b.has(x) for x in _witnesses(a.critical + b.critical))
    except (Undefined, TooLarge):
        return None


def _witnesses(critical: tuple[Any, ...]) -> list[Any]:
    points = sorted(set(critical))[:_MAX_CRITICAL]
    if not points:
        return [_ctx.mpf(0), _ctx.mpf(1), _ctx.mpf(-1)]
    between = [(a + b) / 2 for a, b in itertools.pairwise(points) if b - a > _NOISE]
    return [points[0] - 1, *points, *between, points[-1] + 1]


def real_set(answer: Answer) -> RealSet:
    if isinstance(answer, Named):
        if answer.relation is not None:
            return _from_relation(answer.relation)
        return real_set(answer.value)
    if isinstance(answer, Relation):
        return _from_relation(answer)
    if isinstance(answer, SetOperation):
        return _from_operation(answer)
    if isinstance(answer, Items):
        return _from_items(answer)
    if isinstance(answer, Leaf):
        text = answer.text.replace(" ", "")
        if text in (r"\mathbb{R}", r"\mathbb{R}^1", "allrealnumbers", "R"):
            return RealSet(lambda x: True, (), "")
        if text == r"\emptyset":
            return RealSet(lambda x: False, (), "")
    raise NotASet


def _from_items(items: Items) -> RealSet:
    if len(items.items) == 2 and (items.opening in ("(", "[") and items.closing in (")", "]")):
        return _interval(items)
    if items.opening == "{":
        return _finite_set([_constant(item) for item in items.items])
    if not items.opening and all(isinstance(item, Items) for item in items.items):
        if items.joined_by == "," and not any(map(_is_surely_an_interval, items.items)):
            raise NotASet  # these may be points
        return _combine([real_set(item) for item in items.items], any_of=True)
    if not items.opening and all(isinstance(item, Relation | Named) for item in items.items):
        parts = [real_set(item) for item in items.items]
        both = _combine(parts, any_of=False)
        if items.joined_by == "or" or (items.joined_by == "," and both.is_trivial):
            return _combine(parts, any_of=True)  # "x < 1, x > 2" cannot mean both
        return both
    raise NotASet


def _is_surely_an_interval(answer: Answer) -> bool:
    """Not a point: it has unlike brackets, or an infinite end."""
    return isinstance(answer, Items) and (
        (answer.opening, answer.closing) in (("(", "]"), ("[", ")"))
        or any(isinstance(item, Leaf) and "infty" in item.text for item in answer.items)
    )


def _interval(items: Items) -> RealSet:
    low, high = (_end(item) for item in items.items)
    if not low < high:
        raise NotASet
    if (_ctx.isinf(low) and items.opening == "[") or (_ctx.isinf(high) and items.closing == "]"):
        raise NotASet  # no set of real numbers has an infinite member
    above = operator.ge if items.opening == "[" else operator.gt
    below = operator.le if items.closing == "]" else operator.lt

    def has(x: Any) -> bool:
        x_low = low if abs(x - low) < _NOISE else x
        x_high = high if abs(x - high) < _NOISE else x
        return above(x_low, low) and below(x_high, high)

    return RealSet(has, tuple(end for end in (low, high) if _ctx.isfinite(end)), "")


def _finite_set(values: list[Any]) -> RealSet:
    return RealSet(lambda x: any(abs(x - value) < _NOISE for value in values), tuple(values), "")


def _combine(parts: list[RealSet], *, any_of: bool) -> RealSet:
    names = {part.variable for part in parts if part.variable}
    if len(names) > 1:
        raise NotASet
    join = any if any_of else all
    critical = tuple(x for part in parts for x in part.critical)
    return RealSet(
        lambda x: join(part.has(x) for part in parts), critical, names.pop() if names else ""
    )


def _from_operation(operation: SetOperation) -> RealSet:
    parts = [real_set(part) for part in operation.parts]
    if operation.sign == "setminus":
        first, *others = parts
        rest = _combine(others, any_of=True)
        outside = RealSet(lambda x: not rest.has(x), rest.critical, rest.variable)
        return _combine([first, outside], any_of=False)
    return _combine(parts, any_of=operation.sign == "cup")


def _end(answer: Answer) -> Any:
    if isinstance(answer, Leaf):
        text = answer.text.replace(" ", "")
        if text in (r"\infty", r"+\infty", "inf", "infinity", "+inf"):
            return _ctx.inf
        if text in (r"-\infty", "-inf", "-infinity"):
            return -_ctx.inf
    return _constant(answer)


def _constant(answer: Answer) -> Any:
    if not isinstance(answer, Leaf) or answer.unit or answer.is_percent or not answer.trees:
        raise NotASet
    return _real_value(answer.trees[0], {})


def _real_value(tree: Node, point: dict[str, Any]) -> Any:
    if variables(tree) - set(point):
        raise NotASet
    try:
        value = approximate(tree, point, _ctx)
    except (Undefined, TooLarge):
        raise NotASet from None
    if _ctx.im(value) != 0:
        raise NotASet
    return _ctx.re(value)


_COMPARE: dict[str, Callable[[Any], bool]] = {
    "<": lambda d: d < -_NOISE,
    ">": lambda d: d > _NOISE,
    "le": lambda d: d <= _NOISE,
    "ge": lambda d: d >= -_NOISE,
    "ne": lambda d: abs(d) > _NOISE,
    "=": lambda d: abs(d) <= _NOISE,
}


def _from_relation(relation: Relation) -> RealSet:
    if "in" in relation.signs:
        raise NotASet
    trees = _member_trees(relation)
    names = frozenset().union(*(variables(tree) for tree in trees))
    if len(names) != 1:
        trees = _member_trees(relation, with_labels=True)
        names = frozenset().union(*(variables(tree) for tree in trees))
    if len(names) != 1:
        raise NotASet
    name = next(iter(names))
    steps = list(zip(trees, relation.signs, trees[1:], strict=False))

    def has(x: Any) -> bool:
        try:
            return all(
                _COMPARE[sign](_real_value(a, {name: x}) - _real_value(b, {name: x}))
                for a, sign, b in steps
            )
        except NotASet:
            return False  # outside the domain

    critical = [zero for a, _, b in steps for zero in _zeros(a, b, name)]
    return RealSet(has, tuple(critical), name)


def _member_trees(relation: Relation, *, with_labels: bool = False) -> list[Node]:
    """The members of a chain. `with_labels`: g(x), |AB| and other names of a quantity are one letter each."""
    trees: list[Node] = []
    for member, text in zip(relation.members, relation.texts, strict=True):
        if with_labels and is_label(text):
            trees.append(("sym", label_name(text)))
        elif isinstance(member, Leaf) and member.trees:
            trees.append(member.trees[0])
        else:
            raise NotASet
    return trees


def _zeros(left: Node, right: Node, name: str) -> list[Any]:
    """Where left = right. Only for differences that are linear on each side of zero, as in 2x - 1 < 3 or |z| < 2: of
    any other kind nothing is known about what lies between two points."""
    zeros: list[Any] = []
    for side in (1, -1):
        coefficients = _polynomial(left, right, name, side)
        if len(coefficients) > 1:
            zeros.append(-coefficients[1] / coefficients[0])
    return zeros


def _polynomial(left: Node, right: Node, name: str, side: int) -> list[Any]:
    """The coefficients of left - right, highest first, fitted at points on one side of zero; it must also hold at three
    further points."""
    points = [_ctx.mpf(side * k) / 2 for k in range(1, _MAX_DEGREE + 5)]
    values = [_real_value(left, {name: x}) - _real_value(right, {name: x}) for x in points]
    size = _MAX_DEGREE + 1
    powers = _ctx.matrix([[x ** (size - 1 - j) for j in range(size)] for x in points[:size]])
    fitted = list(_ctx.lu_solve(powers, _ctx.matrix(values[:size])))
    scale = max(1, *(abs(value) for value in values))
    for x, value in zip(points[size:], values[size:], strict=True):
        if abs(_ctx.polyval(fitted, x) - value) > _NOISE * scale:
            raise NotASet
    while fitted and abs(fitted[0]) < _NOISE * scale:
        fitted.pop(0)
    return fitted
