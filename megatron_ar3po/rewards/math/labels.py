"""The left side of an equation that only names the right side."""

from __future__ import annotations

import re

from megatron_ar3po.rewards.math.words import words


def is_label(text: str) -> bool:
    r"""Whether the left side of an equation only names the right side: x, a_{3}, f(x), |AB|, V_1:V_2, (p,q). Not: 2x,
    x^2, a + b, \sin x.

    >>> [is_label(t) for t in ("x", "a_{3}", "f(2)", r"\frac{NO}{BO}", "2x", "x^2", "a+b", r"\sin x")]
    [True, True, True, True, False, False, False, False]
    """
    if len(text) > 80:
        return False
    bare = re.sub(r"_ ?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\?[A-Za-z]+|\d)", "", text)
    bare = re.sub(r"\\text ?\{[^{}]*\}", "T", bare)
    bare = re.sub(r"\^ ?\{ ?-1 ?\}(?= ?\()", "", bare)  # the inverse of a function
    bare = re.sub(r"(?<=[A-Za-z']) ?\([^()]*\)", "", bare)
    if not re.search(r"[A-Za-z]", bare) or re.search(r"[-+*^!<>=&°%\d]", bare):
        return False
    if "/" in bare and not re.fullmatch(r" ?[A-Z]+ ?/ ?[A-Z]+ ?", bare):
        return False
    if _CONDITION.search(bare):
        return False
    commands = re.findall(r"\\([A-Za-z]+)", bare)
    return not any(c in _MEANINGFUL for c in commands)


_CONDITION = re.compile(r"(?<![A-Za-z\\])(?:at|if|when|where|for|only|unless|while)(?![A-Za-z])")
_MEANINGFUL = frozenset(
    words(
        "sin cos tan cot sec csc log ln exp sqrt int sum prod lim pm mp cup cap infty arcsin arccos arctan pi "
        "begin max min gcd lcm "
    )
)


def label_name(text: str) -> str:
    return re.sub(r"\\text|[{} ]", "", text)


def labels_agree(a: str, b: str) -> bool:
    """The same name, or y against f(x): both only say that this is the function."""
    if a == b:
        return True
    return any(kind.fullmatch(a) and kind.fullmatch(b) for kind in (_FUNCTION, _DERIVATIVE))


_FUNCTION = re.compile(r"[A-Za-z]'?\([A-Za-z,]+\)|y")
_DERIVATIVE = re.compile(r"[A-Za-z]'(?:\([a-z]\))?|\\fracd[a-z]d[a-z]|d[a-z]/d[a-z]")
