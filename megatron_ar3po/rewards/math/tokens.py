"""Tokens of tidied LaTeX arithmetic, and the values of number tokens."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_TOKENS = 4000
MAX_DIGITS = 1000  # of one number
MAX_EXPONENT = 400  # of scientific notation
_TOKEN = re.compile(
    r"""
    (?P<repeating>\d*\.\d*\\overline\{\d+\})
  | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d^]))?)
  | (?P<word>arc(?:sin|cos|tan|cot|sec|csc)h?|(?:sin|cos|tan|cot|sec|csc)h?|a(?:sin|cos|tan)|ln|log|exp|sqrt|abs
      |cis|floor|ceil|pi|infty|infinity|inf)(?![A-Za-z])
  | (?P<letter>[A-Za-z]'*)
  | (?P<command>\\[A-Za-z]+)
  | (?P<open>\\\{|\{|\(|\[)
  | (?P<close>\\\}|\}|\)|\])
  | (?P<sign>[-+*/^_!|°%,])
  | (?P<space>\ +)
    """,
    re.VERBOSE | re.ASCII,
)
SCRIPTS = ("^", "_")
_NUMBER_STARTS = tuple(".0123456789")


class Unreadable(ValueError):
    """The text is not in the language of this reader."""


def number_value(text: str) -> Fraction:
    """The exact value of an unsigned number token; refuses what would be slow to write out."""
    if len(text) > MAX_DIGITS:
        raise Unreadable("a number with too many digits")
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
        raise Unreadable("an exponent out of range")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def tokens_of(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise Unreadable(f"unexpected {text[position]!r}")
        if match.lastgroup != "space":
            tokens.append((match.lastgroup, match[0]))
        elif _is_bare_number(tokens) and text[match.end() : match.end() + 1] in _NUMBER_STARTS:
            tokens.append(("gap", " "))  # "2 3" is not a product of ours, "1 1/2" is a mixed number
        position = match.end()
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("too many tokens")
    return tokens


def _is_bare_number(tokens: list[tuple[str, str]]) -> bool:
    """The last token is a number, and not an exponent: the space in "2^6 3^5" is a product."""
    return (
        bool(tokens)
        and tokens[-1][0] == "number"
        and (len(tokens) < 2 or tokens[-2][1] not in SCRIPTS)
    )


def repeating_value(token: str) -> Fraction:
    r"""0.1\overline{6} is 1/6."""
    if len(token) > 60:
        raise Unreadable("a repeating decimal with too many digits")
    start, _, cycle = token.partition(r"\overline{")
    cycle = cycle.rstrip("}")
    decimals = len(start.partition(".")[2])
    head = Fraction(start if decimals else start + "0")
    return head + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**decimals)


class TokenReader:
    """Tokens one after another. `ahead` counts from the next one; the kind says which group of the grammar it is of."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self, ahead: int = 0) -> str | None:
        index = self._at + ahead
        return self._tokens[index][1] if index < len(self._tokens) else None

    def _kind(self, ahead: int = 0) -> str | None:
        index = self._at + ahead
        return self._tokens[index][0] if index < len(self._tokens) else None

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise Unreadable("unexpected end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, token: str) -> None:
        kind, found = self._next()
        if found != token:
            raise Unreadable(f"expected {token!r}, found {kind} {found!r}")

    def _points(self, figure: str) -> str:
        r"""The points of a figure, no product: \angle ABC is \angle CBA, and not \angle ACB."""
        start, points = self._at, []
        is_braced = self.peek() == "{"
        self._at += is_braced
        while self._kind() == "letter" and (self.peek() or "").isupper():
            points.append(self._next()[1])
        if is_braced and (not points or self.peek() != "}"):
            self._at = start
            return ""
        self._at += is_braced
        return "".join(sorted(points) if figure == "triangle" else min(points, points[::-1]))
