r"""Has an answer been worked out, or does it still hold the task? For `rewards.require_evaluated`.

Where the ground truth is a plain number the answer must be one as well: an integer, a decimal, a fraction (one that
comes out even, as 84/2, is a task), a mixed number, a multiple of a power of ten, each with its unit or percent sign.
Elsewhere roots, pi, e, i and functions may stand, but no operation that could be carried out and that the ground truth
does not hold as well: the sum of two numbers or of like terms, a product, a power, a root that comes out, a function of
a number, a sum sign, an integral.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from megatron_ar3po.rewards.math.answers import (
    Answer,
    Items,
    Leaf,
    Matrix,
    Named,
    Ratio,
    Relation,
    SetOperation,
)
from megatron_ar3po.rewards.math.exact import TooLarge, Undefined, exact
from megatron_ar3po.rewards.math.reading import read
from megatron_ar3po.rewards.math.tidy import tidy
from megatron_ar3po.rewards.math.trees import MINUS_ONE, ONE, Node, is_proper_fraction, variables

_SYMBOLIC = re.compile(r"\\(int|iint|oint|sum|prod|lim|det|bigcup|bigcap)(?![A-Za-z])")
_TEN: Node = ("num", Fraction(10))
_HUNDREDTH: Node = ("num", Fraction(1, 100))
_DEGREE: Node = ("num", Fraction(1, 180))


def what_is_left_to_do(answer: str, ground_truth: str) -> str | None:
    r"""The first operation of the answer that could still be carried out, or None. The two are equal already.

    >>> what_is_left_to_do("17+25", "42"), what_is_left_to_do(r"\frac{84}{2}", "42"), what_is_left_to_do("4.2", "21/5")
    ('a sum', 'a quotient', None)
    """
    found, expected = list(_leaves(read(tidy(answer)))), list(_leaves(read(tidy(ground_truth))))
    if expected and all(map(_is_plain_number, expected)):
        task = next((leaf for leaf in found if not _is_plain_number(leaf)), None)
        return None if task is None else next(iter(_operations(task)), "an expression")
    allowed = {operation for leaf in expected for operation in _operations(leaf)}
    return next((done for leaf in found for done in _operations(leaf) if done not in allowed), None)


def _leaves(answer: Answer) -> Iterator[Leaf]:
    """The leaves that say something: the last member of an equation with a value there, not the letter of a choice."""
    if isinstance(answer, Leaf):
        yield answer
    elif isinstance(answer, Named):
        yield from _leaves(answer.value)
    elif isinstance(answer, Relation):
        last = answer.members[-1]
        is_stated = isinstance(last, Leaf) and last.trees and not variables(last.trees[0])
        for member in (last,) if set(answer.signs) == {"="} and is_stated else answer.members:
            yield from _leaves(member)
    elif isinstance(answer, Matrix):
        for row in answer.rows:
            for cell in row:
                yield from _leaves(cell)
    elif isinstance(answer, Items | SetOperation | Ratio):
        for part in answer.items if isinstance(answer, Items) else answer.parts:
            yield from _leaves(part)


def _is_plain_number(leaf: Leaf) -> bool:
    if leaf.value is not None:
        return leaf.value.denominator != 1 or not re.search(r"/|\\frac", leaf.text)
    return bool(leaf.trees) and _is_written_number(leaf.trees[0], has_plus="+" in leaf.text)


def _is_written_number(node: Node, *, has_plus: bool) -> bool:
    """A number, a mixed number, a multiple of a power of ten; any of them with a minus."""
    if node[0] == "mul" and node[1][0] == MINUS_ONE:
        factors = node[1][1:]
        node = factors[0] if len(factors) == 1 else ("mul", factors)
    if node[0] == "add":
        return _is_mixed(node) and not has_plus
    if node[0] == "mul":
        return len(node[1]) == 2 and node[1][0][0] == "num" and _is_power_of_ten(node[1][1])
    return node[0] == "num" or _is_power_of_ten(node)


def _is_mixed(node: Node) -> bool:
    """1\frac{2}{3}, which the reader of expressions hands out as a sum."""
    return len(node[1]) == 2 and node[1][0][0] == "num" and is_proper_fraction(node[1][1])


def _is_power_of_ten(node: Node) -> bool:
    return node[0] == "pow" and node[1] == _TEN and _exact(node[2]) is not None


def _exact(node: Node) -> Fraction | None:
    try:
        return exact(node)
    except (Undefined, TooLarge):
        return None


def _operations(leaf: Leaf) -> Iterator[str]:
    """What could be carried out, outermost first."""
    if leaf.value is not None:
        if not _is_plain_number(leaf):
            yield "a quotient"
    elif not leaf.trees:
        yield from (f"\\{name}" for name in _SYMBOLIC.findall(leaf.text))
    else:
        yield from _operations_in(leaf.trees[0], has_plus="+" in leaf.text)


def _operations_in(node: Node, *, has_plus: bool) -> Iterator[str]:
    kind = node[0]
    if kind in ("num", "sym", "const"):
        return
    if kind == "add" and (has_plus or not _is_mixed(node)):
        like = [_without_numbers(term) for term in node[1]]
        if len(set(like)) < len(like):
            yield "a sum"
    elif kind == "mul" and _is_open_product(node[1]):
        yield "a product"
    elif kind == "div" and _is_open_quotient(node):
        yield "a quotient"
    elif kind == "pow" and not _is_power_of_ten(node) and _is_open_power(node):
        yield "a power"
    elif kind == "root" and _exact(node) is not None:
        yield "a root"
    elif kind == "fn" and not variables(node):
        yield f"{node[1]} of a number"
    for child in node[1] if kind in ("add", "mul") else node[2] if kind == "fn" else node[1:]:
        yield from _operations_in(child, has_plus=has_plus)


def _without_numbers(term: Node, power: int = 1) -> tuple[tuple[str, int], ...]:
    """The factors of a term that are no rational numbers, each with 1 or, below a fraction bar, -1: terms that have the
    same ones can be added up."""
    if _exact(term) is not None:
        return ()
    if term[0] == "div":
        return tuple(sorted(_without_numbers(term[1], power) + _without_numbers(term[2], -power)))
    if term[0] == "mul":
        return tuple(sorted(key for factor in term[1] for key in _without_numbers(factor, power)))
    return ((repr(term), power),)


def _is_open_product(factors: tuple[Node, ...]) -> bool:
    if factors[-1] in (_HUNDREDTH, _DEGREE):
        return False  # 5% and 30°
    numbers = [f for f in factors if _exact(f) is not None and f not in (ONE, MINUS_ONE)]
    if len(numbers) == 2 and any(map(_is_power_of_ten, numbers)):
        return False
    sums = [f for f in factors if f[0] == "add" and not variables(f)]
    return len(numbers) > 1 or len(sums) > 1


def _is_open_quotient(node: Node) -> bool:
    """Of numbers, and not just a fraction; or one that comes out even."""
    value = _exact(node)
    return value is not None and (
        value.denominator == 1 or node[2][0] != "num" or node[1][0] not in ("num", "mul")
    )


def _is_open_power(node: Node) -> bool:
    if variables(node):
        return False
    exponent = _exact(node[2])
    is_whole = exponent is not None and exponent.denominator == 1 and exponent > 1
    return _exact(node) is not None or (
        is_whole and (node[1][0] in ("add", "root") or node[1] == ("const", "i"))
    )
