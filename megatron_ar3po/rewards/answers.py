r"""The shape of an answer: a number, a tuple, an interval, a set, a matrix, an equation ... read from tidied text.

Reading looks at brackets, separators and relation signs only; what stands in the leaves is understood later, by the
layers of `equality`. Shapes are what keep "(1,2)" from "(2,1)" and "[0,1)" from "(0,1]".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from megatron_ar3po.rewards.expression import MAX_DIGITS, Node, Unreadable, parse
from megatron_ar3po.rewards.tidy import words
from megatron_ar3po.rewards.units import split_percent, split_unit

MAX_ITEMS = 256
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Leaf:
    """One value. `text` is without its unit and percent sign; `groups` are its parts if its commas separate a list
    rather than thousands ("100,200")."""

    text: str
    unit: str = ""
    is_percent: bool = False
    is_words: bool = False  # stood in \text{...}
    groups: tuple[str, ...] = ()

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

    @property
    def is_ordered(self) -> bool:
        return self.opening not in ("", "{")


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


def plain_value(text: str) -> Fraction | None:
    r"""The exact value of an integer, a decimal or a simple fraction.

    >>> plain_value("-1,000.50"), plain_value(r"\frac{-3}{4}"), plain_value("x")
    (Fraction(-2001, 2), Fraction(-3, 4), None)
    """
    if len(text) > MAX_DIGITS:
        return None
    if _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    over = match[2] or match[4] or match[6]
    under = match[3] or match[5] or match[7]
    if not int(under):
        return None
    value = Fraction(int(over), int(under))
    return -value if match[1] == "-" else value


# --- scanning

_PIECE = re.compile(r"\\(?:begin|end) ?\{[A-Za-z*]+\}|\\[A-Za-z]+|\\\\|\\.|[A-Za-z]+|.", re.DOTALL)
_OPENING = frozenset(["(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"])
_CLOSING = frozenset([")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"])


def _top_level(text: str) -> Iterator[tuple[int, str]]:
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


def _split(text: str, is_separator: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """The parts between the separators, and the separators."""
    parts, separators, start = [], [], 0
    for position, piece in _top_level(text):
        if position >= start and is_separator(piece):
            parts.append(text[start:position].strip())
            separators.append(piece)
            start = position + len(piece)
    return [*parts, text[start:].strip()], separators


_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)", re.ASCII)
_AND_OR = re.compile(
    r"\\text ?\{[ ,]*(and|or)[ ,]*\}|\\(?:land|wedge)(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z])"
)


def _join_thousands(text: str, *, in_brackets: bool) -> str:
    """Take out the commas that separate thousands, by the rule: where other commas are followed by a space these are
    not, "1,000" stays whole; "(100,200)" is a pair; a bare "100,200" is one number."""
    if "," not in text:
        return text
    inside = {
        p
        for match in _THOUSANDS.finditer(text)
        for p in range(match.start(), match.end())
        if text[p] == ","
    }
    others = [p for p, piece in _top_level(text) if piece == "," and p not in inside]
    if any(text[p + 1 : p + 2] != " " for p in others) or (in_brackets and not others):
        return text
    top = {p for p, piece in _top_level(text) if piece == ","}
    return "".join(c for p, c in enumerate(text) if p not in inside or p not in top)


# --- reading


def read(text: str, *, depth: int = 0) -> Answer:
    """The shape of a tidied answer. Never fails: what has no shape is a leaf."""
    text = text.strip()
    if depth > _MAX_DEPTH:
        return Leaf(text)
    if text.endswith(_ENDS_OF_QUALIFIERS):
        text = _FOR_ALL.sub("", _IN_BRACKETS.sub(r", \1", text)) or text
    for reader in (_read_wrapped, _read_choice, _read_matrix, _read_unusual_brackets, _read_list, _read_relation, _read_set_operation,
                   _read_plus_minus, _read_brackets, _read_ratio):  # fmt: skip
        answer = reader(text, depth + 1)
        if answer is not None:
            return answer
    return _read_leaf(text)


# Where a letter comes from, behind the answer: (k \in Z), for all real numbers t, where n is an integer.
_IN_BRACKETS = re.compile(r" ?\( ?([a-z] ?\\in ?\\mathbb ?\{[ZNQR]\}[^()]{0,40})\)$")
_FOR_ALL = re.compile(
    r"[, ]*(?:\\text ?\{ ?,? ?)?(?:for|where)(?: all| any| every| each| some)?(?: [a-z])?(?: is| are)?(?: an?| any)?"
    r"(?: positive| nonnegative| non-negative| arbitrary)?(?: integers?| real numbers?| reals| constants?)[ }]*[a-z]?$"
)
_ENDS_OF_QUALIFIERS = tuple(f"{end}{letter}" for end in (" ", "}") for letter in words("k n m t s x y z c r")) + (
    ")", "integer", "integers", "constant", "constants", "numbers", "number", "reals", "}")  # fmt: skip
_NAMED_VALUES = {
    **dict.fromkeys(words("allrealnumbers allreals therealnumbers realnumbers allrealnumbersx"), r"\mathbb{R}"),
    **dict.fromkeys(words("infinity inf positiveinfinity +infinity"), r"\infty"),
    **dict.fromkeys(words("-infinity -inf negativeinfinity minusinfinity"), r"-\infty"),
    **dict.fromkeys(words("nosolution nosolutions norealsolution norealsolutions emptyset theemptyset nullset"), r"\emptyset"),
    **dict.fromkeys(words("dne doesnotexist itdoesnotexist limitdoesnotexist thelimitdoesnotexist"), "DNE"),
}  # fmt: skip


def _read_leaf(text: str) -> Leaf:
    if text.startswith("+"):
        text = text[1:].lstrip()
    text = _NAMED_VALUES.get(re.sub(r"\\text|[{} ]", "", text).lower(), text)
    groups = tuple(text.split(",")) if _THOUSANDS.fullmatch(text) else ()
    if plain_value(text) is not None:
        return Leaf(text, groups=groups)
    core, is_percent = split_percent(text)
    core, unit = split_unit(core)
    if is_percent and core.startswith(r"\$"):
        return Leaf(text)
    core = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), core)
    return Leaf(core.strip(), unit=unit, is_percent=is_percent)


def _whole_group(text: str, opening: str, closing: str) -> str | None:
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


def _read_wrapped(text: str, depth: int) -> Answer | None:
    for command in (r"\boxed", r"\fbox", r"\underline", r"\ensuremath"):
        if text.startswith(command):
            inside = _whole_group(text[len(command) :].strip(), "{", "}")
            if inside is not None:
                return read(inside, depth=depth)
    if text.startswith(r"\text"):
        inside = _whole_group(text[len(r"\text") :].strip(), "{", "}")
        if inside is not None:
            answer = read(inside, depth=depth)
            return replace(answer, is_words=True) if isinstance(answer, Leaf) else answer
    inside = _whole_group(text, "{", "}")
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


def _read_choice(text: str, depth: int) -> Answer | None:
    plain = text
    named = re.fullmatch(
        r"(?:\\text ?\{)? ?(?:option|choice|answer) ?\(?([A-J])\)?\}?", text, re.IGNORECASE
    )
    if named:
        return Leaf(named[1])
    if text.startswith(r"\text"):
        plain = re.sub(r"^\\text ?\{([^{}]*)\}", r"\1 ", text)
    match = _CHOICE.fullmatch(plain.strip())
    return Choice(match[1] or match[2], read(match[3], depth=depth)) if match else None


_MATRIX = re.compile(
    r"(?:[\[(]|(?P<system>\\\{))? ?\\begin ?\{(?P<name>[pb]?matrix\*?"
    r"|smallmatrix|array|cases|aligned|align\*?|gathered)\}"
    r" ?(?:\{[lcr| ]*\}|\[[lcr]\])?(?P<body>.*)\\end ?\{(?P=name)\} ?[\])]?",
    re.DOTALL,
)


def _read_matrix(text: str, depth: int) -> Answer | None:
    if r"\begin" not in text:
        return None
    transposed = _TRANSPOSED.search(text)
    if transposed:
        matrix = _read_matrix(text[: transposed.start()], depth)
        return (
            Matrix(tuple(zip(*matrix.rows, strict=False))) if isinstance(matrix, Matrix) else None
        )
    match = _MATRIX.fullmatch(text)
    if match is None or r"\begin" in match["body"]:
        return None
    body = re.sub(
        r"\\hline|\\\\ ?\[\d+[a-z]*\]",
        lambda m: "\\\\" if m[0].startswith("\\\\") else "",
        match["body"],
    )
    rows = [row.strip() for row in body.split("\\\\")]
    rows = [row for row in rows if row]
    if not rows or len(rows) > MAX_ITEMS:
        return None
    if not match["system"] and ("matrix" in match["name"] or match["name"] == "array"):
        cells = [
            tuple(read(cell, depth=depth) for cell in row.split("&")) for row in rows[:MAX_ITEMS]
        ]
        return Matrix(tuple(cells)) if sum(map(len, cells)) <= 4 * MAX_ITEMS else None
    equations = [_read_row(row, depth) for row in rows]
    return Items(tuple(equations), joined_by="and") if len(equations) > 1 else equations[0]


_CASE = re.compile(
    r"[, ]*(?:\\text ?\{ ?,? ?(?:if|for|when|where)? ?\}|(?:if|for|when|where)(?![A-Za-z]))? ?"
)


def _read_row(row: str, depth: int) -> Answer:
    r"""A row of `cases`: an equation with alignment marks, or a value and its condition ("x & \text{if } x \ge 0")."""
    cells = [cell.strip(" ,.") for cell in row.split("&")]
    if len(cells) != 2 or not all(cells) or cells[1].startswith(_STARTS_OF_EQUATIONS):
        return read(row.replace("&", " "), depth=depth)
    condition = _CASE.sub("", cells[1], count=1)
    return Items(
        (read(cells[0], depth=depth), read(condition, depth=depth)), opening="(", closing=")"
    )


_STARTS_OF_EQUATIONS = ("=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx")
_SEPARATORS = frozenset((",", ";", "and", "or", "\\\\"))


def _read_list(text: str, depth: int, *, in_brackets: bool = False) -> Answer | None:
    marked = _AND_OR.sub(lambda m: " or " if "or" in m[0] or "vee" in m[0] else " and ", text)
    marked = _join_thousands(marked, in_brackets=in_brackets)
    parts, separators = _split(marked, lambda piece: piece in _SEPARATORS)
    if any(s == ";" for s in separators) and not in_brackets:
        parts, separators = _split(marked, lambda piece: piece in (";", "and", "or"))
    elif in_brackets and any(s == ";" for s in separators):
        parts, separators = _split(marked, lambda piece: piece == ";")
    parts = [part for part in parts if part]
    if len(parts) < 2 or len(parts) > MAX_ITEMS:
        if marked != text and len(parts) == 1 and not separators and _THOUSANDS.fullmatch(text):
            return Leaf(parts[0], groups=tuple(text.split(",")))
        return None
    joined_by = "or" if "or" in separators else "and" if "and" in separators else ","
    return _flat([read(part, depth=depth) for part in parts], joined_by)


def _flat(answers: list[Answer], joined_by: str) -> Answer:
    r"""Bare lists inside a bare list (from \pm) are one list."""
    flat: list[Answer] = []
    for answer in answers:
        flat.extend(answer.items if isinstance(answer, Items) and not answer.opening else [answer])
    return Items(tuple(flat), joined_by=joined_by)


_RELATIONS = {
    "=": "=", "<": "<", ">": ">", r"\le": "le", r"\ge": "ge", r"\ne": "ne", r"\approx": "approx", r"\in": "in",
    r"\equiv": "=",
}  # fmt: skip


def _read_relation(text: str, depth: int) -> Answer | None:
    texts, found = _split(text, lambda piece: piece in _RELATIONS)
    signs = [_RELATIONS[sign] for sign in found]
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
    return _named(relation) or relation


def _without_infinite_ends(texts: list[str], signs: list[str]) -> tuple[list[str], list[str]]:
    r"""-\infty < x \le 3 says x \le 3."""
    if len(signs) < 2:
        return texts, signs
    if signs[0] == "<" and _NAMED_VALUES.get(texts[0], texts[0]) == r"-\infty":
        texts, signs = texts[1:], signs[1:]
    if len(signs) > 1 and signs[-1] == "<" and texts[-1].lstrip("+") in (r"\infty", "infinity"):
        texts, signs = texts[:-1], signs[:-1]
    return texts, signs


def _named(relation: Relation) -> Answer | None:
    """label = ... = value, and label in set."""
    label = relation.texts[0]
    if not is_label(label):
        return None
    if all(sign == "=" for sign in relation.signs):
        return Named(
            _label_name(label),
            relation.members[-1],
            relation if len(relation.members) == 2 else None,
        )
    if relation.signs == ("in",):
        return Named(_label_name(label), relation.members[1])
    return None


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


def _label_name(text: str) -> str:
    return re.sub(r"\\text|[{} ]", "", text)


_SET_SIGNS = {r"\cup": "cup", r"\cap": "cap", r"\setminus": "setminus", r"\bigcup": "cup"}


def _read_set_operation(text: str, depth: int) -> Answer | None:
    parts, found = _split(text, lambda piece: piece in _SET_SIGNS)
    signs = {_SET_SIGNS[sign] for sign in found}
    if len(signs) != 1 or not all(parts) or len(parts) > MAX_ITEMS:
        return None
    return SetOperation(signs.pop(), tuple(read(part, depth=depth) for part in parts))


_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


def _read_plus_minus(text: str, depth: int) -> Answer | None:
    r"""3 \pm 2 is the list 5, 1."""
    if not _PLUS_MINUS.search(text) or _whole_group(text, r"\{", r"\}") is not None:
        return None  # inside a set each element is expanded on its own
    upper = _PLUS_MINUS.sub(lambda m: "+" if m[1] == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda m: "-" if m[1] == "pm" else "+", text)
    return _flat([read(upper, depth=depth), read(lower, depth=depth)], "or")


_BRACKETS = (
    ("(", ")"),
    ("(", "]"),
    ("[", ")"),
    ("[", "]"),
    (r"\{", r"\}"),
    (r"\langle", r"\rangle"),
)


_TRANSPOSED = re.compile(r" ?\^ ?\{? ?(?:T|\\text ?\{ ?T ?\}|\\top|\\intercal) ?\}?$")
_POINT = re.compile(r"[A-Z]'? ?(?=\()")


def _read_brackets(text: str, depth: int) -> Answer | None:
    if text.endswith(("T", "}", "top", "intercal")) and text[:1] in ("(", "["):
        text = _TRANSPOSED.sub("", text)
    point = _POINT.match(text)
    if point:  # P(1,2) is the point (1,2)
        inside = _read_brackets(text[point.end() :], depth)
        return inside if isinstance(inside, Items) and len(inside.items) > 1 else None
    for opening, closing in _BRACKETS:
        inside = _whole_group(text, opening, closing)
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
    text = _TO.sub(":", text)
    parts, _ = _split(text, lambda piece: piece == ":")
    if not 2 <= len(parts) <= 8 or not all(parts):
        return None
    return Ratio(tuple(read(part, depth=depth) for part in parts))
