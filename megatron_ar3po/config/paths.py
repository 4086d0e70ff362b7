"""Paths as users write them: `~` is a home folder, in options and on the command line alike, where no shell has seen it
(`run.dir=~/runs`, `--out=~/x`, YAML)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator


def expand_home(path: str) -> str:
    """
    >>> expand_home("data/train.jsonl"), expand_home("data/~old")
    ('data/train.jsonl', 'data/~old')
    """
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        name = path.partition("/")[0]
        raise ValueError(
            f"{path} starts with {name}, which is nobody's home folder here; write the path in full, or ./{path} for a "
            "folder of this name."
        ) from None


def expand_home_within(value: Any) -> Any:
    """Of options that are passed through: what starts with `~/` is a path, whatever its name."""
    if isinstance(value, str):
        return expand_home(value) if value.startswith("~/") else value
    if isinstance(value, dict):
        named = cast(dict[Any, Any], value)
        return {name: expand_home_within(inner) for name, inner in named.items()}
    if isinstance(value, list):
        return [expand_home_within(inner) for inner in cast(list[Any], value)]
    return value


def parse_path(text: str) -> Path:
    """An argparse type."""
    try:
        return Path(expand_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# Types of options.
PathText = Annotated[str, AfterValidator(expand_home)]
PassedThrough = Annotated[dict[str, Any], AfterValidator(expand_home_within)]
