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
    if len(text) > 80 or _UNKNOWN_IN_BARS.fullmatch(text):
        return False
    bare = re.sub(r"_ ?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\?[A-Za-z]+|\d)", "", text)
    bare = re.sub(r"\\text ?\{[^{}]*\}", "T", bare)
    bare = re.sub(r"\^ ?\{ ?-1 ?\}(?= ?\()", "", bare)  # the inverse of a function
    bare = re.sub(r"(?<=[A-Za-z']) ?\([^()]*\)", "", bare)
    if not re.search(r"[A-Za-z]", bare) or re.search(r"[-+*^!<>=&°%\d]", bare):
        return False
    if "/" in bare and not _LETTERS_OVER_LETTERS.fullmatch(bare):
        return False
    if _CONDITION.search(bare):
        return False
    commands = re.findall(r"\\([A-Za-z]+)", bare)
    return not any(c in _MEANINGFUL for c in commands)


_LETTERS_OVER_LETTERS = re.compile(r" ?(?:[A-Z]+ ?/ ?[A-Z]+|d[a-z] ?/ ?d[a-z]) ?")
_UNKNOWN_IN_BARS = re.compile(
    r"\| ?[xyt] ?\|"
)  # |x| = 5 is an equation to be solved, |AB| = 5 names a length
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
    """The same name, or y against f(x), y' against f'(x), dy/dx or df/dx: each says that this is the function, or its
    derivative. Not f(x) against g(x), nor f(x) against f'(x).

    >>> [labels_agree("y", "f(x)"), labels_agree("f(x)", "g(x)"), labels_agree("y'", "dy/dx"), labels_agree("y", "y'")]
    [True, False, True, False]
    """
    if a == b:
        return True
    left, right = _function(a), _function(b)
    if left is None or right is None or left[1] != right[1]:
        return False
    is_same = left[0] == right[0] or "y" in (left[0], right[0])
    return is_same and (left[2] == right[2] or "" in (left[2], right[2]))


_FUNCTION = re.compile(r"(?:([A-Za-z])('*)\(([A-Za-z,]+)\)|(y|[A-Za-z](?='))('*))")
_QUOTIENT = re.compile(r"\\fracd([a-z])d([a-z])|d([a-z])/d([a-z])")


def _function(label: str) -> tuple[str, int, str] | None:
    """The letter of a function, how often it is differentiated, the letters it is a function of, if said."""
    match = _FUNCTION.fullmatch(label)
    if match:
        primes = match[2] or match[5] or ""
        return match[1] or match[4], len(primes), match[3] or ""
    match = _QUOTIENT.fullmatch(label)
    return (match[1] or match[3], 1, match[2] or match[4]) if match else None
