"""Syntax trees of expressions.

A node is a tuple: ("num", Fraction), ("sym", name), ("const", "pi" | "e" | "i"), ("add", nodes), ("mul", nodes),
("div", node, node), ("pow", node, node), ("root", index, node), ("fn", name, nodes).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]
ONE: Node = ("num", Fraction(1))
MINUS_ONE: Node = ("num", Fraction(-1))


def variables(node: Node) -> frozenset[str]:
    """The names of the free variables."""
    found: set[str] = set()
    stack: list[Any] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            if len(item) == 2 and item[0] == "sym":
                found.add(item[1])
            else:
                stack.extend(item)
    return frozenset(found)


def rename_variable(node: Node, old: str, new: str) -> Node:
    """With another letter for a variable."""
    if node[:1] == ("sym",):
        return ("sym", new) if node[1] == old else node
    return tuple(
        rename_variable(item, old, new) if isinstance(item, tuple) else item for item in node
    )


def size(node: Node) -> int:
    """How many nodes it has."""
    total = 0
    stack: list[Any] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            total += 1
            stack.extend(item)
    return total


def uses(node: Node, *names: str) -> bool:
    """Whether a function of one of these names stands anywhere in the tree."""
    stack: list[Any] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            if len(item) == 3 and item[0] == "fn" and item[1] in names:
                return True
            stack.extend(item)
    return False


def is_proper_fraction(node: Node) -> bool:
    """A fraction of whole numbers, 0 <= over < under."""
    if node[0] != "div" or node[1][0] != "num" or node[2][0] != "num":
        return False
    over, under = node[1][1], node[2][1]
    return over.denominator == under.denominator == 1 and 0 <= over < under
