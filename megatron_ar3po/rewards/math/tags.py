"""Answers between tags: `<answer>9</answer>`, as in the prompts of DeepSeek-R1-Zero, and the box of GLM."""

from __future__ import annotations

import re

_TAG = re.compile(
    r"<(?P<end>/)?(?:final_?)?answer>|<\|(?:begin|(?P<box_end>end))_of_box\|>", re.IGNORECASE
)


def find_tag(text: str, *, strict: bool = False) -> str | None:
    """What stands between the last pair of tags with something in it. Unless `strict` one that is never closed counts
    where no pair does: a stop string may have taken its end.

    >>> find_tag("<answer>7</answer> or rather <answer> 8 </answer>"), find_tag("so <answer>7"), find_tag("7")
    ('8', '7', None)
    """
    if "<" not in text:
        return None
    start: int | None = None
    found = None
    for tag in _TAG.finditer(text):
        if not (tag["end"] or tag["box_end"]):
            start = tag.end()
        elif start is not None:
            found = text[start : tag.start()].strip() or found
            start = None
    if found is None and start is not None and not strict:
        found = text[start:].strip()
    return found or None
