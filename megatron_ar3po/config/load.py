"""Config files and `key=value` words -> one frozen `Config`. Strict: an unknown key fails and names the nearest one.

defaults  <  preset of algorithm.name  <  YAML files from left to right  <  key=value on the command line
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.declared import dotted_options, fields_of
from megatron_ar3po.config.presets import PRESETS
from megatron_ar3po.config.renamed import RENAMED, refuse_renamed_options
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.words import parse_words, read_yaml_file

_SHOWN_CHARACTERS = 80  # of a value, in a message


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Reads `files`, applies `overrides` ("rollout.num_stages=2"), fills in the preset and the defaults.

    Raises ValueError with a dotted option in it for an unknown key, a value of the wrong type or a broken rule."""
    stated: dict[str, Any] = {}
    for file in files:
        stated = merge(stated, read_yaml_file(Path(file)))
    for said in parse_words(overrides):
        stated = merge(stated, said)
    refuse_renamed_options(stated)
    _refuse_unknown_keys(stated, Config, "")  # `algorithm` is a section, if it is there
    name = stated.get("algorithm", {}).get("name", AlgorithmConfig().name)
    preset = PRESETS.get(str(name), {})  # an unknown name is refused below, by its type
    return config_from_dict(merge(preset, stated))


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A config from nested plain values, for instance of a resolved_config.yaml; no preset is applied."""
    refuse_renamed_options(values)
    _refuse_unknown_keys(values, Config, "")
    try:
        return _adapter().validate_python(_with_lax_types(values))
    except ValidationError as error:
        raise ValueError("\n".join(_help_line(e) for e in error.errors())) from None


@functools.cache
def _adapter() -> TypeAdapter[Config]:
    """Made once: pydantic reads the whole schema for it."""
    return TypeAdapter(Config)


def to_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False, width=100)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Section by section; what stands `above` goes before."""
    out = dict(below)
    for key, value in above.items():
        under = out.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        out[key] = merge(under, value) if both else value  # type: ignore[arg-type]
    return out


def _refuse_unknown_keys(values: Mapping[str, Any], cls: type, prefix: str) -> None:
    fields = fields_of(cls)
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in fields:
            known = dotted_options() if "." in dotted else [*fields_of(Config), *dotted_options()]
            (near,) = difflib.get_close_matches(dotted, [*known, *RENAMED], n=1, cutoff=0.0)
            raise ValueError(
                f"unknown option {dotted}={_shorten(value)}; the nearest known one is {RENAMED.get(near, near)}."
            )
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, Mapping):
                inner = ", ".join(fields_of(typing.cast(type, fields[key])))
                raise ValueError(
                    f"{dotted}={_shorten(value)} must be a section with the options {inner}."
                )
            section = typing.cast("Mapping[str, Any]", value)
            _refuse_unknown_keys(section, typing.cast(type, fields[key]), f"{dotted}.")


def _with_lax_types(values: Mapping[str, Any]) -> dict[str, Any]:
    """What YAML itself has read: a number is no text, and true is no number."""

    def walk(given: Mapping[str, Any], cls: type, prefix: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in given.items():
            hint = fields_of(cls)[key]
            if dataclasses.is_dataclass(hint):
                out[key] = walk(value, typing.cast(type, hint), f"{key}.")
            elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
                out[key] = str(value)
            elif hint is str and value is None:
                out[key] = ""
            else:
                _refuse_truth_as_number(prefix + key, value, hint)
                out[key] = value
        return out

    return walk(values, Config, "")


def _refuse_truth_as_number(dotted: str, value: Any, hint: Any) -> None:
    members, inner = [value], hint
    if typing.get_origin(hint) is list and isinstance(value, list):
        members, (inner,) = typing.cast("list[Any]", value), typing.get_args(hint)
    if inner in (int, float) and any(isinstance(each, bool) for each in members):
        shown = members if inner is not hint else members[0]
        raise ValueError(f"{dotted}={_shorten(shown)}: it must be a number.")


def _help_line(error: Any) -> str:
    dotted = ".".join(str(part) for part in error["loc"])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        # A rule of a section says all by itself; a path does not know its option.
        return f"{dotted}={cause}" if "." in dotted else str(cause)
    given = error["input"]
    is_plain = isinstance(given, str | int | float | bool | types.NoneType)
    shown = _shorten(given) if is_plain else type(given).__name__
    return f"{dotted}={shown}: {error['msg'][0].lower()}{error['msg'][1:]}."


def _shorten(value: object) -> str:
    try:
        shown = str(value).encode("utf-8", "backslashreplace").decode()
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
