"""Questions that one answer can be asked by itself, and other views of it."""

from __future__ import annotations

import re
from dataclasses import replace

from megatron_ar3po.rewards.math.answers import Answer, Items, Leaf, Matrix, Named, Ratio, Relation
from megatron_ar3po.rewards.math.numeric import expressions_equal
from megatron_ar3po.rewards.math.trees import MINUS_ONE, Node, rename_variable, variables
from megatron_ar3po.rewards.math.wording import WORDS, has_signs


def name_of(answer: Answer) -> str:
    if isinstance(answer, Items):
        return {"": "list", "{": "set"}.get(answer.opening, f"{answer.opening}{answer.closing}")
    return type(answer).__name__.lower()


def without_repeats(items: Items) -> Items:
    """A list that names an element twice names it."""
    return replace(items, items=tuple(dict.fromkeys(items.items)))


def as_latex(matrix: Matrix) -> str:
    rows = [
        " & ".join(cell.text if isinstance(cell, Leaf) else "?" for cell in row)
        for row in matrix.rows
    ]
    return r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"


def same_function_of_another_letter(a: Named, b: Named) -> bool:
    """f(n) = n + 1 is f(x) = x + 1. The letters must be free on the other side, so that f(x) = ax is not f(a) = ax."""
    left, right = (_OF_ONE_LETTER.fullmatch(side.label) for side in (a, b))
    if left is None or right is None or left[1] != right[1]:
        return False
    x, y = a.value, b.value
    if not (isinstance(x, Leaf) and isinstance(y, Leaf) and x.trees and y.trees):
        return False
    if x.unit or y.unit or right[2] in variables(x.trees[0]) or left[2] in variables(y.trees[0]):
        return False
    return expressions_equal(x.trees[0], rename_variable(y.trees[0], right[2], left[2]))


_OF_ONE_LETTER = re.compile(r"([A-Za-z]'*)\(([a-z])\)")


def reversed_relation(relation: Relation) -> Relation:
    flip = {"<": ">", ">": "<", "le": "ge", "ge": "le"}
    return Relation(
        relation.members[::-1],
        tuple(flip.get(sign, sign) for sign in relation.signs[::-1]),
        relation.texts[::-1],
    )


def difference(relation: Relation) -> tuple[Node, str] | None:
    """left - right, and the sign turned so that it is one of = ne < le."""
    left, right = relation.members
    if not (isinstance(left, Leaf) and isinstance(right, Leaf) and left.trees and right.trees):
        return None
    sign = relation.signs[0]
    if sign in (">", "ge"):
        left, right, sign = right, left, {">": "<", "ge": "le"}[sign]
    if sign not in ("=", "ne", "<", "le"):
        return None
    return ("add", (left.trees[0], ("mul", (MINUS_ONE, right.trees[0])))), sign


def is_words(leaf: Leaf) -> bool:
    if not WORDS.fullmatch(leaf.text) or has_signs(leaf.text):
        return False
    return leaf.is_words or len(leaf.text) > 1


def is_condition(item: Answer) -> bool:
    """An inequality, or a letter that may stand for a statement: what "and" and "or" tell apart."""
    if isinstance(item, Leaf):
        return len(item.text) == 1 and item.text.isalpha()
    relation = item.relation if isinstance(item, Named) else item
    return isinstance(relation, Relation) and set(relation.signs) != {"="}


def is_clock(ratio: Ratio) -> bool:
    return isinstance(ratio.parts[1], Leaf) and len(ratio.parts[1].text) == 2


def repeats_a_label(items: Items) -> bool:
    labels = [item.label for item in items.items if isinstance(item, Named)]
    return len(set(labels)) < len(labels)


def is_number_or_letter_in_brackets(items: Items) -> bool:
    """[12] and [B]: brackets that only set the answer off."""
    inside = items.items[0] if (items.opening, items.closing) == ("[", "]") else None
    return isinstance(inside, Leaf) and bool(re.fullmatch(r"-?\d+|[A-J]", inside.text))


def with_equal_qualifiers(a: Answer, b: Answer) -> tuple[Answer, Answer]:
    r"""Where the letters come from ("k \in \mathbb{Z}") may be said on one side only."""
    plain = [_without_qualifiers(side) for side in (a, b)]
    if (plain[0] is a) == (plain[1] is b):
        return a, b
    return plain[0], plain[1]


def _without_qualifiers(answer: Answer) -> Answer:
    if not isinstance(answer, Items) or answer.opening:
        return answer
    kept = tuple(item for item in answer.items if not _is_qualifier(item))
    if len(kept) in (0, len(answer.items)):
        return answer
    return kept[0] if len(kept) == 1 else replace(answer, items=kept)


def _is_qualifier(item: Answer) -> bool:
    return (
        isinstance(item, Named)
        and item.relation is None
        and isinstance(item.value, Leaf)
        and bool(re.match(r"\\mathbb ?\{[ZNQR]\}", item.value.text))
    )


def is_constant(relation: Relation) -> bool:
    return all(
        isinstance(member, Leaf) and member.trees and not variables(member.trees[0])
        for member in relation.members
    )


def same_trees(a: Relation, b: Relation) -> bool:
    """The same statement up to brackets and spacing, read from either side."""
    left, right = ([m.trees[0] for m in side.members if isinstance(m, Leaf)] for side in (a, b))
    return left in (right, right[::-1])
