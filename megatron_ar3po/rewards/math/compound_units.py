"""Quantities of several units: 2 h 15 min, 5 feet 6 inches, 3 lb 4 oz, 30° 15'.

The units are of one kind and fall, each has its number. Nothing is converted: 2 h 15 min equals neither 135 min nor
2.25 h, but it equals itself with the names of its units short or long, with and without "and".
"""

from __future__ import annotations

import itertools
import re

from megatron_ar3po.rewards.math.unit_names import is_unit_name, unit_name
from megatron_ar3po.rewards.math.words import words

_KINDS = [
    {name: rank for rank, name in enumerate(words(kind))}
    for kind in (
        "year month week day hour minute second millisecond",
        "mile yard foot inch",
        "kilometer meter decimeter centimeter millimeter",
        "ton pound ounce",
        "ton kilogram gram milligram",
        "gallon quart pint cup ounce",
        "liter deciliter centiliter milliliter",
        "dollar cent",
        "euro cent",
        "degree arcminute arcsecond",
    )
]
_PART = re.compile(
    r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?:(?P<word>[A-Za-z]{1,12})\b\.?|(?P<sign>°|''|['\"]))\s*(?:,|and\b|,\s*and\b)?",
    re.ASCII,
)
_FLAT = re.compile(r"\\text ?\{([^{}]*)\}")
MAX_CHARS = 120


def read_compound(text: str) -> str | None:
    r"""The same quantity in one spelling, or None when it is no quantity of several units.

    >>> read_compound(r"2\text{ h }15\text{ min}"), read_compound("5' 6\""), read_compound("3 x 4 z")
    ('2 hour; 15 minute', '5 foot; 6 inch', None)
    """
    if len(text) > MAX_CHARS or not text[:1].isdigit():
        return None
    text = _FLAT.sub(r" \1 ", text)
    parts: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or len(parts) > 4:
            return None
        parts.append((_number(part["number"]), _unit(part, parts[-1][1] if parts else "")))
        position = part.end()
    units = [unit for _, unit in parts]
    if len(parts) < 2:
        return None
    if not any(_falls(units, kind) for kind in _KINDS):
        written = [word for _, word, _ in _PART.findall(text)]
        if min(map(len, written)) < 3 and not all(map(is_unit_name, written)):
            return None  # 3 x 4 z may be a product of letters; 3 apples 4 oranges, 3 m 4 s are none
    return "; ".join(f"{number} {unit}" for number, unit in parts)


def _number(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits.lstrip("0") or "0"


def _unit(part: re.Match[str], before: str) -> str:
    """Its name; a prime is feet, or minutes of a degree, and m behind hours is minutes."""
    if part["sign"] == "°":
        return "degree"
    if part["sign"]:
        of_angle = before in ("degree", "arcminute")
        is_first = part["sign"] == "'"
        return (
            ("arcminute" if is_first else "arcsecond")
            if of_angle
            else ("foot" if is_first else "inch")
        )
    name = unit_name(part["word"])
    return "minute" if part["word"] == "m" and before == "hour" else name


def _falls(units: list[str], kind: dict[str, int]) -> bool:
    ranks = [kind.get(unit, -1) for unit in units]
    return -1 not in ranks and all(a < b for a, b in itertools.pairwise(ranks))
