"""The values that an option takes, declared beside its type and checked here: `Free[Annotated[int, Range(ge=1)]]`.

Every number of a config lies in a declared range, and all text can stand in a file's name or a log. A section
checks itself when it is made (`check_values` in its `__post_init__`), so no config holds another value, wherever it
comes from.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, TypeAlias

LARGEST_COUNT = 2**31 - 1  # fits the 32-bit integers of tensors and sockets
LARGEST_64_BIT = 2**63 - 1
_LONGEST_TEXT_BYTES, _LONGEST_NAME_BYTES = 4095, 255  # of a path, and of a name in it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from `ge` or above `gt`, up to `le` or below `lt`: one of each, so that NaN and the infinities are in
    none."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __post_init__(self) -> None:
        assert (self.gt is None) != (self.ge is None), "one lower end"
        assert (self.lt is None) != (self.le is None), "one upper end"

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int | float)
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        """
        >>> str(Range(gt=0, le=1)), str(Range(ge=0, lt=1)), str(Range(ge=0, le=65535)), str(COUNT)
        ('above 0 and at most 1', 'at least 0 and below 1', '0 to 65535', 'at least 1 and below 2^31')
        """
        bits = "2^31" if self.le == LARGEST_COUNT else "2^63" if self.le == LARGEST_64_BIT else ""
        if self.ge is not None and self.le is not None and not bits:
            return f"{_show(self.ge)} to {_show(self.le)}"
        ends = (("above", self.gt), ("at least", self.ge), ("below", self.lt), ("at most", self.le))
        words = [f"{word} {_show(end)}" for word, end in ends if end is not None]
        return f"{words[0]} and {f'below {bits}' if bits else words[1]}"


@dataclasses.dataclass(frozen=True, slots=True)
class ZeroOr:
    """0, which turns something off, or a number of the range."""

    range: Range

    def __contains__(self, value: object) -> bool:
        return value == 0 or value in self.range

    def __str__(self) -> str:
        return f"0, or {self.range}"


AnyRange: TypeAlias = Range | ZeroOr

# The usual ones.
COUNT = Range(ge=1, le=LARGEST_COUNT)
COUNT_OR_0 = Range(ge=0, le=LARGEST_COUNT)
FRACTION = Range(ge=0, le=1)
SECONDS = Range(gt=0, le=1e6)  # a day is 86,400; some clocks below us count milliseconds in 32 bits
SECONDS_OR_0 = Range(ge=0, le=1e6)
TOP_P = Range(ge=1e-6, le=1)


def check_values(section: str, values: Any) -> None:
    """Raises ValueError for the first option of `values`, an instance of a section's class, that holds a number out of
    its range or text that nothing could be named for."""
    ranges = declared_ranges(values.__class__)
    for field in dataclasses.fields(values):
        found: Any = getattr(values, field.name)
        allowed, name = ranges.get(field.name), f"{section}.{field.name}"
        among = f" (in {found})" if isinstance(found, list) else ""
        for value in typing.cast("list[Any]", found if among else [found]):
            if allowed is not None and value not in allowed:
                raise ValueError(
                    f"{name}={_show(value)}{among} is out of range; it must be {allowed}."
                )
            if isinstance(value, str) and (wrong := _wrong_with(value)):
                raise ValueError(f"{name}={value[:80]!r} {wrong}; write it without.")


@functools.cache
def declared_ranges(section: type) -> dict[str, AnyRange]:
    """By option. Of a list, the range of its members."""
    hints = typing.get_type_hints(section, include_extras=True)
    found = {name: list(_ranges_in(hints[name])) for name in hints}
    return {name: ranges[0] for name, ranges in found.items() if ranges}


def _ranges_in(hint: Any) -> typing.Iterator[AnyRange]:
    yield from (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range | ZeroOr))
    for inner in typing.get_args(hint):
        yield from _ranges_in(inner)


def _wrong_with(text: str) -> str:
    """
    >>> _wrong_with("runs/a b"), _wrong_with("a\\nb")
    ('', 'holds a control character')
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "holds a control character"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        return "holds bytes that are no UTF-8"
    longest = max(map(len, encoded.split(b"/")))
    if len(encoded) > _LONGEST_TEXT_BYTES or longest > _LONGEST_NAME_BYTES:
        return (
            f"holds {len(encoded)} bytes, or a name of {longest}, where a path takes {_LONGEST_TEXT_BYTES} and a name "
            f"in it {_LONGEST_NAME_BYTES}"
        )
    return ""


def _show(number: float) -> str:
    """
    >>> _show(2**31 - 1), _show(1e6), _show(0.5), _show(float("nan"))
    ('2147483647', '1000000', '0.5', 'nan')
    """
    is_whole = isinstance(number, int) or (number.is_integer() and abs(number) < 1e15)
    return str(int(number)) if is_whole else f"{number:g}"
