r"""The shape of an answer: a number, a tuple, an interval, a set, a matrix, an equation ... read from tidied text.

Reading looks at brackets, separators and relation signs only; what stands in the leaves is understood later, by the
layers of `equality`. Shapes are what keep "(1,2)" from "(2,1)" and "[0,1)" from "(0,1]".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from megatron_ar3po.rewards.math.expression import parse
from megatron_ar3po.rewards.math.tokens import MAX_DIGITS, Unreadable
from megatron_ar3po.rewards.math.trees import Node


@dataclass(frozen=True)
class Leaf:
    """One value. `text` is without its unit and percent sign; `groups` are its parts if its commas separate a list
    rather than thousands ("100,200")."""

    text: str
    unit: str = ""
    is_percent: bool = False
    is_words: bool = False  # stood in \text{...}
    groups: tuple[str, ...] = ()
    product: str = field(default="", compare=False)  # all of it, where its unit may be letters: 2mg

    @cached_property
    def value(self) -> Fraction | None:
        """Its exact value when it is a plain number or fraction; the cheap case."""
        return plain_value(self.text)

    @cached_property
    def trees(self) -> tuple[Node, ...]:
        """Its readings as an expression: one, two when 1/2x is ambiguous, none when it is no expression."""
        try:
            loose = parse(self.text)
        except Unreadable:
            return ()
        except RecursionError:
            return ()
        if "/" not in self.text:
            return (loose,)
        try:
            tight = parse(self.text, tight=True)
        except Unreadable:
            return (loose,)
        return (loose,) if tight == loose else (loose, tight)


@dataclass(frozen=True)
class Items:
    """Several values. `opening` and `closing` are its brackets: '' for a bare list, which is unordered like a set."""

    items: tuple[Answer, ...]
    opening: str = ""
    closing: str = ""
    joined_by: str = ","  # 'or', 'and', ','


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True)
class Relation:
    """members[0] signs[0] members[1] ...; signs are = < > le ge ne in."""

    members: tuple[Answer, ...]
    signs: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """label = value: the value counts, the label may be missing on the other side."""

    label: str
    value: Answer
    relation: Relation | None = None


@dataclass(frozen=True)
class SetOperation:
    """Parts joined by one of cup, cap, setminus."""

    sign: str
    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Ratio:
    parts: tuple[Answer, ...]


@dataclass(frozen=True)
class Choice:
    """A letter of a multiple choice with its text: "(B) 12"."""

    letter: str
    rest: Answer


Answer = Leaf | Items | Matrix | Relation | Named | SetOperation | Ratio | Choice

# --- plain numbers

_DECIMAL = re.compile(r"[-+]? ?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)", re.ASCII)
_FRACTION = re.compile(
    r"([-+]?) ?(?:\\frac ?(?:\{ ?([-+]?\d+) ?\} ?\{ ?([-+]?\d+) ?\}|(\d)(\d))|\(?(\d+) ?/ ?(\d+)\)?)",
    re.ASCII,
)

_LAST_OF_A_NUMBER = frozenset("0123456789.})")


def plain_value(text: str) -> Fraction | None:
    r"""The exact value of an integer, a decimal or a simple fraction.

    >>> plain_value("-1,000.50"), plain_value(r"\frac{-3}{4}"), plain_value("x")
    (Fraction(-2001, 2), Fraction(-3, 4), None)
    """
    if len(text) > MAX_DIGITS or text[-1:] not in _LAST_OF_A_NUMBER:
        return None
    if _DECIMAL.fullmatch(text):
        whole, _, decimals = text.replace(",", "").replace(" ", "").partition(".")
        return (
            Fraction(int(whole + decimals), 10 ** len(decimals))
            if decimals
            else Fraction(int(whole))
        )
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    over = match[2] or match[4] or match[6]
    under = match[3] or match[5] or match[7]
    if not int(under):
        return None
    value = Fraction(int(over), int(under))
    return -value if match[1] == "-" else value
