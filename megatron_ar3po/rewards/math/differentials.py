r"""Fractions of differentials: \frac{dy}{dx} is one letter and no quotient, \frac{d}{dx} is a task for `symbolic`."""

from __future__ import annotations

from megatron_ar3po.rewards.math.tokens import Unreadable
from megatron_ar3po.rewards.math.trees import Node

_DIFFERENTIALS: tuple[Node, ...] = (("sym", "d"), ("sym", "partial"))


def quotient(over: Node, under: Node) -> Node:
    """over / under, or the letter that stands for a derivative."""
    below = _differential(under)
    if below is None:
        return ("div", over, under)
    if over in _DIFFERENTIALS:
        raise Unreadable("a derivative to be taken")
    above = _differential(over)
    if above is None or above[0] != below[0]:
        return ("div", over, under)
    return ("sym", f"{above[0]}{above[1]}/{below[0]}{below[1]}")


def _differential(node: Node) -> tuple[str, str] | None:
    r"""d or \partial, and the letter behind it."""
    if node[0] != "mul" or len(node[1]) != 2 or node[1][0] not in _DIFFERENTIALS:
        return None
    letter = node[1][1]
    return (node[1][0][1], letter[1]) if letter[0] == "sym" else None
