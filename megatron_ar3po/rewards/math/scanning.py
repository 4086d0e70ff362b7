"""Brackets and separators: what stands outside of brackets, where a text splits, whether one pair of brackets holds it
all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_PIECE = re.compile(
    r"\\(?:begin|end) ?\{[A-Za-z*]+\}|\\[A-Za-z]+|\\\\|\\.|[A-Za-z]+|[\d ]+|.", re.DOTALL
)
_OPENING = frozenset(["(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"])
_CLOSING = frozenset([")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"])


MAX_ITEMS = 256  # of a list, and rows of a matrix
SEPARATORS = frozenset((",", ";", "and", "or", "\\\\"))
RELATIONS = {
    "=": "=", "<": "<", ">": ">", r"\le": "le", r"\ge": "ge", r"\ne": "ne", r"\approx": "approx", r"\in": "in",
    r"\equiv": "=",
}  # fmt: skip


def top_level(text: str) -> Iterator[tuple[int, str]]:
    """(position, piece) of everything outside brackets."""
    depth = 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece in _OPENING or piece.startswith(r"\begin"):
            depth += 1
        elif piece in _CLOSING or piece.startswith(r"\end"):
            depth = max(0, depth - 1)
        elif depth == 0:
            yield match.start(), piece


def split(text: str, is_separator: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """The parts between the separators, and the separators."""
    parts, separators, start = [], [], 0
    for position, piece in top_level(text):
        if position >= start and is_separator(piece):
            parts.append(text[start:position].strip())
            separators.append(piece)
            start = position + len(piece)
    return [*parts, text[start:].strip()], separators


THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)", re.ASCII)


def join_thousands(text: str, *, in_brackets: bool) -> str:
    """Take out the commas that separate thousands, by the rule: where other commas are followed by a space these are
    not, "1,000" stays whole; "(100,200)" is a pair; a bare "100,200" is one number."""
    if "," not in text:
        return text
    inside = {
        p
        for match in THOUSANDS.finditer(text)
        for p in range(match.start(), match.end())
        if text[p] == ","
    }
    others = [p for p, piece in top_level(text) if piece == "," and p not in inside]
    if any(text[p + 1 : p + 2] != " " for p in others) or (in_brackets and not others):
        return text
    top = {p for p, piece in top_level(text) if piece == ","}
    return "".join(c for p, c in enumerate(text) if p not in inside or p not in top)


def whole_group(text: str, opening: str, closing: str) -> str | None:
    """The inside, when one pair of brackets holds the whole text."""
    if not (text.startswith(opening) and text.endswith(closing)) or len(text) < len(opening) + len(
        closing
    ):
        return None
    inside_depth, end = 0, len(text) - len(closing)
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece in _OPENING or piece.startswith(r"\begin"):
            inside_depth += 1
        elif piece in _CLOSING or piece.startswith(r"\end"):
            inside_depth -= 1
            if inside_depth == 0:
                return text[len(opening) : end].strip() if match.start() == end else None
    return None
