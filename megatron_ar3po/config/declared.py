"""The options there are, read from the classes of the sections."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

from megatron_ar3po.config.schema import Config


@functools.cache
def fields_of(cls: type) -> dict[str, Any]:
    """The name and the type of each field, without what is annotated to it."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def is_text(hint: Any) -> bool:
    """Words of their own, not numbers: `str`, or one of several names."""
    return hint is str or typing.get_origin(hint) is typing.Literal


def dotted_options(cls: type = Config, prefix: str = "") -> list[str]:
    """Every option there is, as 'section.option'."""
    names: list[str] = []
    for name, hint in fields_of(cls).items():
        if dataclasses.is_dataclass(hint):
            names += dotted_options(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names
