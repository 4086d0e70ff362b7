"""Answers that are words, wholly or in part: named values, dates, qualifiers, numbers in a base."""

from __future__ import annotations

import re

from megatron_ar3po.rewards.math.words import words

# Where a letter comes from, behind the answer: (k \in Z), for all real numbers t, where n is an integer.
_IN_BRACKETS = re.compile(r" ?\( ?([a-z] ?\\in ?\\mathbb ?\{[ZNQR]\}[^()]{0,40})\)$")
_FOR_ALL = re.compile(
    r"[, ]*(?:\\text ?\{ ?,? ?)?(?:for|where)(?: all| any| every| each| some)?(?: [a-z])?(?: is| are)?(?: an?| any)?"
    r"(?: positive| nonnegative| non-negative| arbitrary)?(?: integers?| real numbers?| reals| constants?)[ }]*[a-z]?$"
)
_ENDS_OF_QUALIFIERS = (
    *(f"{end}{letter}" for end in (" ", "}") for letter in words("k n m t s x y z c r")),
    *words(") } integer integers constant constants number numbers reals"),
)
_VALUES = {
    **dict.fromkeys(words("allrealnumbers allreals therealnumbers realnumbers "), r"\mathbb{R}"),
    **dict.fromkeys(words("infinity inf positiveinfinity +infinity"), r"\infty"),
    **dict.fromkeys(words("-infinity -inf negativeinfinity minusinfinity"), r"-\infty"),
    **dict.fromkeys(words("nosolution nosolutions norealsolution norealsolutions emptyset theemptyset nullset"),
                    r"\emptyset"),
    **dict.fromkeys(words("dne doesnotexist itdoesnotexist limitdoesnotexist thelimitdoesnotexist"), "DNE"),
}  # fmt: skip


def without_qualifier(text: str) -> str:
    """The answer without the words that only say where a letter comes from."""
    if not text.endswith(_ENDS_OF_QUALIFIERS):
        return text
    return _FOR_ALL.sub("", _IN_BRACKETS.sub(r", \1", text)) or text


def named_value(text: str) -> str:
    """The sign for "infinity", "all real numbers", "no solution"; any other text as it is."""
    return _VALUES.get(re.sub(r"\\text|[{} ]", "", text).lower(), text)


WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_SAID = re.compile(r"[A-Za-z0-9 ,.'’]*[A-Za-z]{3}[A-Za-z0-9 ,.'’]*")
_BASED = re.compile(r"(-?)([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)_(?:base)?(\d{1,2}|[a-z]+)")
_BASES = {name: str(number) for number, name in enumerate(words(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"), 2)}  # fmt: skip


def is_said(text: str) -> bool:
    """Words and numbers only, such as a date."""
    return bool(_SAID.fullmatch(re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text)))


def spell_out(text: str) -> str:
    words = re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[^A-Za-z0-9]+", " ", words).strip().casefold().removeprefix("the ")


def split_base(text: str) -> tuple[str, str, str] | None:
    """(sign, digits, base) of a number written in a base: 4210_7."""
    if "_" not in text or len(text) > 200:
        return None
    match = _BASED.fullmatch(re.sub(r"\\text|[{}() ]", "", text))
    if match is None or not match[2][0].isdigit():
        return None
    return match[1], match[2].lstrip("0").upper(), _BASES.get(match[3], match[3])
