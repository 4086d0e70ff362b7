r"""Matrices and systems of equations in LaTeX environments: their rows, cells and sums."""

from __future__ import annotations

import re
from collections.abc import Callable

from megatron_ar3po.rewards.math.answers import Answer, Items, Leaf, Matrix
from megatron_ar3po.rewards.math.scanning import MAX_ITEMS, RELATIONS, SEPARATORS, split

Reader = Callable[[str], Answer]  # of a cell or a row
TRANSPOSED = re.compile(r" ?\^ ?\{? ?(?:T|\\text ?\{ ?T ?\}|\\top|\\intercal) ?\}?$")
_MATRIX = re.compile(
    r"(?:[\[(]|(?P<system>\\\{))? ?\\begin ?\{(?P<name>[pb]?matrix\*?"
    r"|smallmatrix|array|cases|aligned|align\*?|gathered)\}"
    r" ?(?:\{[lcr| ]*\}|\[[lcr]\])?(?P<body>.*)\\end ?\{(?P=name)\} ?[\])]?",
    re.DOTALL,
)


def read_matrix(text: str, read: Reader) -> Answer | None:
    if r"\begin" not in text:
        return None
    transposed = TRANSPOSED.search(text)
    if transposed:
        matrix = _read_one_matrix(text[: transposed.start()], read)
        return (
            Matrix(tuple(zip(*matrix.rows, strict=False))) if isinstance(matrix, Matrix) else None
        )
    return _read_one_matrix(text, read) or _read_matrix_sum(text, read)


_IN_A_PROGRAM = re.compile(r"(?:Matrix|matrix|array) ?\( ?(\[.*\]) ?\)", re.DOTALL)
_ROWS_BY_SEMICOLONS = re.compile(r"\[ ?([^\[\]();]+(?:;[^\[\]();]+)+) ?\]")


def read_rows_of_numbers(text: str, read: Reader) -> Answer | None:
    """Matrices as programs write them: Matrix([[1,2],[3,4]]), [1 2; 3 4], [1,2;3,4]."""
    called = _IN_A_PROGRAM.fullmatch(text)
    if called:
        return read(called[1])
    match = _ROWS_BY_SEMICOLONS.fullmatch(text)
    if match is None:
        return None
    rows = [
        [cell for cell in re.split(r" ?, ?" if "," in row else " +", row.strip()) if cell]
        for row in match[1].split(";")
    ]
    if len(rows) * len(rows[0]) > MAX_ITEMS or {len(row) for row in rows} != {max(2, len(rows[0]))}:
        return None
    return Matrix(tuple(tuple(read(cell) for cell in row) for row in rows))


def nested_rows(items: Items) -> Matrix | None:
    """Lists of equally many items inside a list: [[1,2],[3,4]]."""
    rows = tuple(item.items for item in items.items if isinstance(item, Items) and item.opening)
    is_matrix = items.opening and len(rows) == len(items.items) and len({len(r) for r in rows}) == 1
    return Matrix(rows) if is_matrix else None


def _read_matrix_sum(text: str, read: Reader) -> Matrix | None:
    r"""Multiples of matrices added up, 2 \begin{pmatrix}...\end{pmatrix} + \begin{pmatrix}...\end{pmatrix} e^t: each
    cell becomes the sum that stands in its place. No product of matrices is read here."""
    if split(text, lambda piece: piece in RELATIONS or piece in SEPARATORS)[1]:
        return None
    texts, signs = split(text, lambda piece: piece in ("+", "-"))
    terms = list(zip(["+", *signs], texts, strict=True))
    if terms and not terms[0][1]:
        terms = terms[1:]
    sums: list[list[str]] = []
    for sign, term in terms:
        parts = list(_MATRIX_PART.finditer(term))
        if len(parts) != 1 or len(terms) > MAX_ITEMS:
            return None
        matrix = _read_one_matrix(parts[0][0], read)
        span = parts[0].span()
        before, after = (part.strip(" *") for part in (term[: span[0]], term[span[1] :]))
        if not isinstance(matrix, Matrix) or "/" in after[:1]:
            return None
        factors = f"{sign}({before or 1})({after or 1})"
        cells = [
            [f"{factors}({cell.text})" for cell in row if isinstance(cell, Leaf) and not cell.unit]
            for row in matrix.rows
        ]
        if [len(row) for row in cells] != [len(row) for row in (sums or matrix.rows)]:
            return None
        sums = cells if not sums else [_paste(*rows) for rows in zip(sums, cells, strict=True)]
    return Matrix(tuple(tuple(Leaf(cell) for cell in row) for row in sums)) if sums else None


def _paste(left: list[str], right: list[str]) -> list[str]:
    return [a + b for a, b in zip(left, right, strict=True)]


_MATRIX_PART = re.compile(
    r"[\[(]? ?\\begin ?\{(?P<name>[pb]?matrix|smallmatrix|array)\}.*?\\end ?\{(?P=name)\} ?[\])]?",
    re.DOTALL,
)


def _read_one_matrix(text: str, read: Reader) -> Answer | None:
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
        cells = [tuple(read(cell) for cell in row.split("&")) for row in rows[:MAX_ITEMS]]
        return Matrix(tuple(cells)) if sum(map(len, cells)) <= 4 * MAX_ITEMS else None
    equations = [_read_row(row, read) for row in rows]
    return Items(tuple(equations), joined_by="and") if len(equations) > 1 else equations[0]


_CASE = re.compile(
    r"[, ]*(?:\\text ?\{ ?,? ?(?:if|for|when|where)? ?\}|(?:if|for|when|where)(?![A-Za-z]))? ?"
)


def _read_row(row: str, read: Reader) -> Answer:
    r"""A row of `cases`: an equation with alignment marks, or a value and its condition ("x & \text{if } x \ge 0")."""
    cells = [cell.strip(" ,.") for cell in row.split("&")]
    if len(cells) != 2 or not all(cells) or cells[1].startswith(_STARTS_OF_EQUATIONS):
        return read(row.replace("&", " "))
    condition = _CASE.sub("", cells[1], count=1)
    return Items((read(cells[0]), read(condition)), opening="(", closing=")")


_STARTS_OF_EQUATIONS = ("=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx")
