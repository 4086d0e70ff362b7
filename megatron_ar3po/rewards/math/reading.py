r"""Reading the shape of an answer from tidied text: brackets, separators and relation signs only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TypeGuard

from megatron_ar3po.rewards.math.answers import (
    Answer,
    Choice,
    Items,
    Leaf,
    Matrix,
    Named,
    Ratio,
    Relation,
    SetOperation,
    plain_value,
)
from megatron_ar3po.rewards.math.compound_units import read_compound
from megatron_ar3po.rewards.math.equations import group_assignments
from megatron_ar3po.rewards.math.labels import is_label, label_name
from megatron_ar3po.rewards.math.matrices import (
    TRANSPOSED,
    nested_rows,
    read_matrix,
    read_rows_of_numbers,
)
from megatron_ar3po.rewards.math.scanning import (
    MAX_ITEMS,
    RELATIONS,
    SEPARATORS,
    THOUSANDS,
    join_thousands,
    split,
    whole_group,
)
from megatron_ar3po.rewards.math.units import split_percent, split_unit
from megatron_ar3po.rewards.math.wording import named_value, without_qualifier

_MAX_DEPTH = 8
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)  # as most leaves are
_AND_OR = re.compile(
    r"\\text ?\{[ ,]*(and|or)[ ,]*\}|\\(?:land|wedge)(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z])"
)


def read(text: str, *, depth: int = 0) -> Answer:
    """The shape of a tidied answer. Never fails: what has no shape is a leaf."""
    text = text.strip()
    if depth > _MAX_DEPTH or _NUMBER.fullmatch(text):
        return Leaf(text)
    text = without_qualifier(text)
    compound = read_compound(text)
    if compound is not None:
        return Leaf(compound, is_words=True)
    for reader in (_read_wrapped, _read_choice, _read_matrix, _read_unusual_brackets, _read_list, _read_relation,
                   _read_set_operation, _read_plus_minus, _read_brackets, _read_ratio):  # fmt: skip
        answer = reader(text, depth + 1)
        if answer is not None:
            return answer
    return _read_leaf(text)


def _read_leaf(text: str) -> Leaf:
    if text.startswith("+"):
        text = text[1:].lstrip()
    text = named_value(text)
    groups = tuple(text.split(",")) if THOUSANDS.fullmatch(text) else ()
    if plain_value(text) is not None:
        return Leaf(text, groups=groups)
    core, is_percent = split_percent(text)
    core, unit = split_unit(core)
    if is_percent and core.startswith(r"\$"):
        return Leaf(text)
    core = THOUSANDS.sub(lambda m: m[0].replace(",", ""), core)
    product = text if unit and _ENDS_IN_LETTERS.search(text) else ""
    return Leaf(core.strip(), unit=unit, is_percent=is_percent, product=product)


_ENDS_IN_LETTERS = re.compile(r"(?<![A-Za-z{ ]) ?[a-zA-Z]{2}$")  # 2mg, \\frac12 mg


def _read_wrapped(text: str, depth: int) -> Answer | None:
    if not text.startswith(("\\", "{")):
        return None
    for command in (r"\boxed", r"\fbox", r"\underline", r"\ensuremath"):
        if text.startswith(command):
            inside = whole_group(text[len(command) :].strip(), "{", "}")
            if inside is not None:
                return read(inside, depth=depth)
    if text.startswith(r"\text"):
        inside = whole_group(text[len(r"\text") :].strip(), "{", "}")
        if inside is not None:
            answer = read(inside, depth=depth)
            return replace(answer, is_words=True) if isinstance(answer, Leaf) else answer
    inside = whole_group(text, "{", "}")
    if inside is None:
        return None
    if _SET_BUILDER.fullmatch(inside):
        return _read_set(inside, depth)
    answer = read(inside, depth=depth)
    return (
        replace(answer, opening="{", closing="}")
        if isinstance(answer, Items) and not answer.opening
        else answer
    )


_CHOICE = re.compile(
    r"(?:\(([A-J])\)[.:]?(?= |\\text)|([A-J])(?:\)|[.:](?= )))\s*(?![-+*/=<>^_])(\S.*)", re.DOTALL
)

_NAMED_CHOICE = re.compile(
    r"(?:\\text ?\{)? ?(?:option|choice|answer)[ :]*\(?([A-J])\)?\}?", re.IGNORECASE
)


def _read_choice(text: str, depth: int) -> Answer | None:
    plain = text
    named = _NAMED_CHOICE.fullmatch(text)
    if named:
        letter = Leaf(named[1])
        return letter if named[1].isupper() else Choice(named[1].upper(), letter)
    if text.startswith(r"\text"):
        plain = re.sub(r"^\\text ?\{([^{}]*)\}", r"\1 ", text)
    match = _CHOICE.fullmatch(plain.strip())
    return Choice(match[1] or match[2], read(match[3], depth=depth)) if match else None


def _read_matrix(text: str, depth: int) -> Answer | None:
    def read_part(part: str) -> Answer:
        return read(part, depth=depth)

    return read_matrix(text, read_part) or read_rows_of_numbers(text, read_part)


_MAY_SEPARATE = re.compile(r"[,;]|\\\\|and|or|\\wedge|\\vee")


def _read_list(text: str, depth: int, *, in_brackets: bool = False) -> Answer | None:
    if not _MAY_SEPARATE.search(text):
        return None
    marked = _AND_OR.sub(lambda m: " or " if "or" in m[0] or "vee" in m[0] else " and ", text)
    marked = join_thousands(marked, in_brackets=in_brackets)
    parts, separators = split(marked, lambda piece: piece in SEPARATORS)
    if any(s == ";" for s in separators) and not in_brackets:
        parts, separators = split(marked, lambda piece: piece in (";", "and", "or"))
    elif in_brackets and any(s == ";" for s in separators):
        parts, separators = split(marked, lambda piece: piece == ";")
    parts = [part for part in parts if part]
    if len(parts) < 2 or len(parts) > MAX_ITEMS:
        if marked != text and len(parts) == 1 and not separators and THOUSANDS.fullmatch(text):
            return Leaf(parts[0], groups=tuple(text.split(",")))
        return None
    joined_by = "or" if "or" in separators else "and" if "and" in separators else ","
    return _flatten([read(part, depth=depth) for part in parts], joined_by)


def _is_bare(answer: Answer) -> TypeGuard[Items]:
    return isinstance(answer, Items) and not answer.opening


def _flatten(answers: list[Answer], joined_by: str) -> Answer:
    r"""Bare lists inside a bare list (from \pm) are one list."""
    flat: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Named) and _is_bare(answer.value):  # x = \pm 2
            flat.extend(Named(answer.label, item) for item in answer.value.items)
        else:
            flat.extend(answer.items if _is_bare(answer) else [answer])
    return group_assignments(Items(tuple(flat), joined_by=joined_by))


_MAY_RELATE = re.compile(r"[=<>]|\\(?:[lgn]e|approx|in|equiv)")


def _read_relation(text: str, depth: int) -> Answer | None:
    if not _MAY_RELATE.search(text):
        return None
    texts, found = split(text, lambda piece: piece in RELATIONS)
    signs = [RELATIONS[sign] for sign in found]
    if not signs or len(signs) > 16:
        return None
    if not texts[0] and signs[0] in ("=", "approx"):
        texts, signs = texts[1:], signs[1:]  # "= 5"
    if not all(texts):
        return None
    while "approx" in signs and (len(texts) > 2 or (len(texts) == 2 and not is_label(texts[0]))):
        # A rounded value behind an exact one adds nothing: "\sqrt3/3 \approx 0.577".
        cut = signs.index("approx")
        if cut == 0 and is_label(texts[0]):
            texts, signs = (
                [texts[0], *texts[2:]] if len(texts) > 2 else texts,
                ["approx", *signs[2:]],
            )
            break
        texts, signs = texts[: cut + 1], signs[:cut]
    texts, signs = _without_infinite_ends(texts, signs)
    if not signs:
        return read(texts[0], depth=depth)
    signs = ["=" if sign == "approx" else sign for sign in signs]
    members = tuple(read(member, depth=depth) for member in texts)
    relation = Relation(members, tuple(signs), tuple(texts))
    if signs == ["="] and re.fullmatch(r"[A-Za-z]", texts[1]) and not is_label(texts[0]):
        return Named(texts[1], members[0], relation)  # "5 = x"
    return _read_named(relation) or relation


def _without_infinite_ends(texts: list[str], signs: list[str]) -> tuple[list[str], list[str]]:
    r"""-\infty < x \le 3 says x \le 3."""
    if len(signs) < 2:
        return texts, signs
    if signs[0] == "<" and named_value(texts[0]) == r"-\infty":
        texts, signs = texts[1:], signs[1:]
    if len(signs) > 1 and signs[-1] == "<" and texts[-1].lstrip("+") in (r"\infty", "infinity"):
        texts, signs = texts[:-1], signs[:-1]
    return texts, signs


def _read_named(relation: Relation) -> Answer | None:
    """label = ... = value, and label in set."""
    label = relation.texts[0]
    if not is_label(label):
        return None
    if all(sign == "=" for sign in relation.signs):
        return Named(
            label_name(label),
            relation.members[-1],
            relation if len(relation.members) == 2 else None,
        )
    if relation.signs == ("in",):
        return Named(label_name(label), relation.members[1])
    return None


_SET_SIGNS = {r"\cup": "cup", r"\cap": "cap", r"\setminus": "setminus", r"\bigcup": "cup"}


def _read_set_operation(text: str, depth: int) -> Answer | None:
    if not any(sign in text for sign in _SET_SIGNS):
        return None
    parts, found = split(text, lambda piece: piece in _SET_SIGNS)
    signs = {_SET_SIGNS[sign] for sign in found}
    if len(signs) != 1 or not all(parts) or len(parts) > MAX_ITEMS:
        return None
    return SetOperation(signs.pop(), tuple(read(part, depth=depth) for part in parts))


_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


def _read_plus_minus(text: str, depth: int) -> Answer | None:
    r"""3 \pm 2 is the list 5, 1."""
    if not _PLUS_MINUS.search(text) or whole_group(text, r"\{", r"\}") is not None:
        return None  # inside a set each element is expanded on its own
    upper = _PLUS_MINUS.sub(lambda m: "+" if m[1] == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda m: "-" if m[1] == "pm" else "+", text)
    return _flatten([read(upper, depth=depth), read(lower, depth=depth)], "or")


_BRACKETS = (
    ("(", ")"),
    ("(", "]"),
    ("[", ")"),
    ("[", "]"),
    (r"\{", r"\}"),
    (r"\langle", r"\rangle"),
)
_POINT = re.compile(r"[A-Z]'? ?(?=\()")


def _read_brackets(text: str, depth: int) -> Answer | None:
    transposed = TRANSPOSED.search(text) if text[:1] in ("(", "[") else None
    if transposed:  # of a row or column only the direction changes
        items = _read_brackets(text[: transposed.start()], depth)
        matrix = nested_rows(items) if isinstance(items, Items) else None
        return Matrix(tuple(zip(*matrix.rows, strict=True))) if matrix else items
    point = _POINT.match(text)
    if point:  # P(1,2) is the point (1,2)
        inside = _read_brackets(text[point.end() :], depth)
        return inside if isinstance(inside, Items) and len(inside.items) > 1 else None
    if not text.startswith(("(", "[", "\\")):
        return None
    for opening, closing in _BRACKETS:
        inside = whole_group(text, opening, closing)
        if inside is None:
            continue
        if opening == r"\{":
            return _read_set(inside, depth)
        listed = _read_list(inside, depth, in_brackets=True)
        if isinstance(listed, Items):
            shape = ("(", ")") if opening == r"\langle" else (opening, closing)
            return replace(listed, opening=shape[0], closing=shape[1])
        if opening == "[" or closing == "]":
            return Items((read(inside, depth=depth),), opening=opening, closing=closing)
        return read(inside, depth=depth) if inside else Leaf(text)
    return None


def _read_unusual_brackets(text: str, depth: int) -> Answer | None:
    """]0,1[ is (0,1), [0,1[ is [0,1), and <1,2> is a vector."""
    if text.startswith("<") and text.endswith(">") and "," in text:
        listed = _read_list(text[1:-1], depth, in_brackets=True)
        return replace(listed, opening="(", closing=")") if isinstance(listed, Items) else None
    if text[:1] not in ("[", "]") or text[-1:] not in ("[", "]") or text[0] + text[-1] == "[]":
        return None
    inside = text[1:-1]
    if "[" in inside or "]" in inside:
        return None
    listed = _read_list(inside, depth, in_brackets=True)
    if not isinstance(listed, Items) or len(listed.items) != 2:
        return None
    return replace(
        listed, opening="[" if text[0] == "[" else "(", closing="]" if text[-1] == "]" else ")"
    )


_SET_BUILDER = re.compile(r"(\(?[A-Za-z, ]+\)?(?: ?\\in ?[^|:]*)?) ?[|:] ?(.+)", re.DOTALL)


def _read_set(inside: str, depth: int) -> Answer:
    builder = _SET_BUILDER.fullmatch(inside)
    if builder:
        condition = read(builder[2], depth=depth)
        return (
            condition
            if not isinstance(condition, Leaf)
            else Items((condition,), opening="{", closing="}")
        )
    listed = _read_list(inside, depth, in_brackets=True) if inside else None
    if listed is None:
        listed = read(inside, depth=depth) if inside else Items((), opening="{", closing="}")
    if isinstance(listed, Items) and listed.opening in ("", "{"):
        return replace(listed, opening="{", closing="}")
    return Items((listed,), opening="{", closing="}")


_TO = re.compile(r"(?<=\d) ?(?:\\text ?\{ ?to ?\}|(?<= )to(?= )) ?(?=\d)")


def _read_ratio(text: str, depth: int) -> Answer | None:
    if ":" not in text and "to" not in text:
        return None
    text = _TO.sub(":", text)
    parts, _ = split(text, lambda piece: piece == ":")
    if not 2 <= len(parts) <= 8 or not all(parts):
        return None
    return Ratio(tuple(read(part, depth=depth) for part in parts))
