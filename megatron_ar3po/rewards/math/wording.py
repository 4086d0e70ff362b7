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

_FLAT = re.compile(r"\\text ?\{([^{}]*)\}")
_VOWEL = re.compile("[AEIOUYaeiouy]")


def is_said(text: str) -> bool:
    """Words and numbers only, such as a date."""
    return bool(_SAID.fullmatch(_FLAT.sub(r"\1", text)))


# A hyphen without a word beside it is a minus, a stroke behind a letter or two is a prime.
_SIGN = re.compile(r"(?<![A-Za-z]{3})-(?![A-Za-z]{3})|(?<![A-Za-z]{3})['’](?![a-z])")
_SAYABLE = re.compile(r"[A-Za-z0-9 ,.:;?\"'’()-]*")
_SHORT_WORDS = frozenset(words("no of or in is it to on at by an as be if we so up do he a i"))


def has_signs(text: str) -> bool:
    """Whether it holds more than words: a minus, a prime, any other sign of mathematics."""
    return bool(_SIGN.search(text)) or not _SAYABLE.fullmatch(text)


def said_alike(left: str, right: str) -> bool:
    """Whether two texts are the same words. Signs are never left out: a-b and a+b are no words.

    >>> said_alike("Well-known", r"\text{the well known}"), said_alike("x-y", "x+y"), said_alike("mv", "MV")
    (True, False, False)
    """
    left, right = (_FLAT.sub(r"\1", text) for text in (left, right))
    if has_signs(left) or has_signs(right):
        return False
    return _spell_out(left) == _spell_out(right)


def _spell_out(text: str) -> str:
    """Capitals count in what may be a product of letters only: Mv is not mV."""
    said = [
        word.casefold() if len(word) > 2 and _VOWEL.search(word) else word
        for word in re.findall(r"[A-Za-z0-9]+", text)
    ]
    said = [word.casefold() if word.casefold() in _SHORT_WORDS else word for word in said]
    is_article = len(said) > 1 and said[0] in ("a", "an") and len(said[1]) > 2
    return " ".join(said[is_article:]).removeprefix("the ")


def split_base(text: str) -> tuple[str, str, str] | None:
    """(sign, digits, base) of a number written in a base: 4210_7."""
    if "_" not in text or len(text) > 200:
        return None
    match = _BASED.fullmatch(re.sub(r"\\text|[{}() ]", "", text))
    if match is None or not match[2][0].isdigit():
        return None
    return match[1], match[2].lstrip("0").upper(), _BASES.get(match[3], match[3])
