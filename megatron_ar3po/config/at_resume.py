"""What a resume may change. Each option says it beside its declaration, as in `seed: Fixed[int] = 0`:

- `Free`: where a run computes, how fast, what it writes down, how long it goes on; may change without a word;
- `Warn`: how strong, how long, how many (coefficients, thresholds, limits, the layout); may change, and one line tells
  the old value and the new;
- `Fixed`: which method, model, prompts, rewards and seed: a change would draw two unlike runs as one curve, so it is
  refused, unless `run.allow_changed` names it.
"""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from typing import Annotated, TypeVar

Value = TypeVar("Value")


class AtResume(Enum):
    FREE = "free"
    WARN = "warn"
    FIXED = "fixed"


Free = Annotated[Value, AtResume.FREE]
Warn = Annotated[Value, AtResume.WARN]
Fixed = Annotated[Value, AtResume.FIXED]


def read_declarations(section: type) -> dict[str, AtResume | None]:
    """What each option of a section's class says of itself; None where it says nothing.

    >>> @dataclasses.dataclass
    ... class Kettle:
    ...     size_l: Fixed[float] = 1.5
    ...     lid: bool = True
    >>> read_declarations(Kettle)
    {'size_l': <AtResume.FIXED: 'fixed'>, 'lid': None}
    """
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        field.name: next(
            (m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, AtResume)),
            None,
        )
        for field in dataclasses.fields(section)
    }
