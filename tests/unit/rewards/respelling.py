r"""Other spellings of an answer, and answers that look alike but are not it: for the tests of the verifier.

Each function takes an answer and returns a changed one, or None where the change does not apply to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction

Change = Callable[[str], str | None]

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")
TUPLE = re.compile(r"(?:\\left)?\(([^()\\]*)(?:\\right)?\)")
INTERVAL = re.compile(r"(?:\\left)?([\[(])([^,\[\]()]*,[^,\[\]()]*?)(?:\\right)?([\])])")
_ITEM = r"-?(?:[\w./]+|\\d?frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\})"
LIST = re.compile(rf"{_ITEM}(?:, ?{_ITEM})+")


def around(before: str, after: str) -> Change:
    return lambda answer: None if "$" in answer or "\n" in answer else before + answer + after


def replace_with(pattern: str, by: str) -> Change:
    return lambda answer: re.sub(pattern, by, answer) if re.search(pattern, answer) else None


def with_thousands(separator: str) -> Change:
    def change(answer: str) -> str | None:
        if not re.fullmatch(r"-?\d{4,}", answer):
            return None
        return f"{int(answer):,}".replace(",", separator)

    return change


def number_and(suffix: str) -> Change:
    return lambda answer: answer + suffix if NUMBER.fullmatch(answer) else None


def as_decimal(answer: str) -> str | None:
    """Only where the decimal is exact."""
    match = FRACTION.fullmatch(answer)
    if not match or (10**6 % int(match[3])):
        return None
    return match[1] + str(Decimal(int(match[2])) / Decimal(int(match[3])))


def as_slash(answer: str) -> str | None:
    match = FRACTION.fullmatch(answer)
    return f"{match[1]}{match[2]}/{match[3]}" if match else None


def expand(answer: str) -> str | None:
    match = FRACTION.fullmatch(answer)
    return rf"{match[1]}\frac{{{3 * int(match[2])}}}{{{3 * int(match[3])}}}" if match else None


def _is_list(answer: str) -> bool:
    return bool(LIST.fullmatch(answer)) and not re.search(r"\d, ?\d{3}(?!\d)", answer)


def reorder(answer: str) -> str | None:
    return ", ".join(re.split(", ?", answer)[::-1]) if _is_list(answer) else None


def as_set(answer: str) -> str | None:
    return rf"\{{{answer}\}}" if _is_list(answer) else None


HARMLESS: dict[str, Change] = {
    "dollars": around("$", "$"),
    "double dollars": around("$$", "$$"),
    "round math": around(r"\(", r"\)"),
    "square math": around(r"\[", r"\]"),
    "box": around(r"\boxed{", "}"),
    "full stop in the box": around(r"\boxed{", ".}"),
    "full stop": around("", "."),
    "bold": around("**", "**"),
    "display style": around(r"\displaystyle ", ""),
    "spaces": around(r"\ ", r"\quad "),
    "new lines": around("\n", "\n"),
    "dfrac": replace_with(r"\\frac", r"\\dfrac"),
    "tfrac": replace_with(r"\\frac", r"\\tfrac"),
    "frac": replace_with(r"\\dfrac", r"\\frac"),
    "no left and right": replace_with(r"\\(?:left|right)(?=[(\[)\]])", ""),
    "bigl and bigr": replace_with(r"\\(left|right)(?=[(\[)\]])", r"\\big"),
    "unicode pi": replace_with(r"\\pi(?![a-z])", "π"),
    "unicode infinity": replace_with(r"\\infty", "∞"),
    "unicode union": replace_with(r"\\cup", "∪"),
    "unicode minus": replace_with("-", "−"),
    "degree sign": replace_with(r"\^\{?\\circ\}?", "°"),
    "bare root": replace_with(r"\\sqrt\{(\d)\}(?!\d)", r"\\sqrt\1"),
    "mathrm": replace_with(r"\\text\{", r"\\mathrm{"),
    "bmatrix": replace_with("pmatrix", "bmatrix"),
    "thousands": with_thousands(","),
    "braced thousands": with_thousands("{,}"),
    "thin thousands": with_thousands(r"\,"),
    "narrow thousands": with_thousands("\u202f"),
    "pulled thousands": with_thousands(r",\!"),
    "unit": number_and(r" \text{ cm}"),
    "words": number_and(" apples"),
    "money": lambda answer: rf"\${answer}" if re.fullmatch(r"\d+(?:\.\d+)?", answer) else None,
    "named": lambda answer: f"x = {answer}" if NUMBER.fullmatch(answer) else None,
    "decimal point": lambda answer: f"{answer}.0" if re.fullmatch(r"-?\d+", answer) else None,
    "decimal": as_decimal,
    "slash": as_slash,
    "expanded": expand,
    "reordered": reorder,
    "set": as_set,
}


def other_number(answer: str) -> str | None:
    """The last number of it is one more."""
    numbers = list(re.finditer(r"\d+", answer))
    if not numbers or re.search(r"approx|floor|ceil|[A-J][.)]", answer):
        return None  # a rounded value, or the text of a choice, does not decide
    last = numbers[-1]
    return f"{answer[: last.start()]}{int(last[0]) + 1}{answer[last.end() :]}"


def scale(factor: Fraction) -> Change:
    def change(answer: str) -> str | None:
        if not NUMBER.fullmatch(answer) or not Fraction(answer):
            return None
        value = Fraction(answer) * factor
        return str(value)

    return change


def negate(answer: str) -> str | None:
    if not (NUMBER.fullmatch(answer) or FRACTION.fullmatch(answer)) or not re.search(
        "[1-9]", answer
    ):
        return None
    return answer[1:] if answer.startswith("-") else f"-{answer}"


def upside_down(answer: str) -> str | None:
    match = FRACTION.fullmatch(answer)
    return (
        rf"{match[1]}\frac{{{match[3]}}}{{{match[2]}}}"
        if match and match[2] not in ("0", match[3])
        else None
    )


def permute(answer: str) -> str | None:
    match = TUPLE.fullmatch(answer)
    parts = [part.strip() for part in match[1].split(",")] if match else []
    turned = parts[1:] + parts[:1]
    return f"({', '.join(turned)})" if turned != parts else None


def with_other_bracket(index: int) -> Change:
    def change(answer: str) -> str | None:
        match = INTERVAL.fullmatch(answer)
        if not match:
            return None
        ends = [match[1], match[3]]
        ends[index] = {"(": "[", "[": "(", ")": "]", "]": ")"}[ends[index]]
        return ends[0] + match[2] + ends[1]

    return change


def shorten(answer: str) -> str | None:
    parts = re.split(", ?", answer)
    return ", ".join(parts[:-1]) if _is_list(answer) and len(set(parts)) == len(parts) else None


def lengthen(answer: str) -> str | None:
    return f"{answer}, 17" if _is_list(answer) and "17" not in answer else None


HARMFUL: dict[str, Change] = {
    "another number": other_number,
    "times 100": scale(Fraction(100)),
    "a hundredth": scale(Fraction(1, 100)),
    "another sign": negate,
    "upside down": upside_down,
    "permuted": permute,
    "another left bracket": with_other_bracket(0),
    "another right bracket": with_other_bracket(1),
    "one missing": shorten,
    "one too many": lengthen,
    "intersection": replace_with(r"\\cup", r"\\cap"),
}


def changes(answer: str, kinds: dict[str, Change]) -> Iterator[tuple[str, str]]:
    """(name, changed answer) for every change that applies."""
    for name, change in kinds.items():
        changed = change(answer)
        if changed is not None and changed != answer:
            yield name, changed
