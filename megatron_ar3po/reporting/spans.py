"""Rank numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence


def spans(ranks: Sequence[int]) -> str:
    """
    >>> spans([0, 1, 4, 5, 9])
    '0-1, 4-5, 9'
    """
    found: list[list[int]] = []
    for rank in ranks:
        if found and rank == found[-1][-1] + 1:
            found[-1].append(rank)
        else:
            found.append([rank])
    return ", ".join(str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in found)
