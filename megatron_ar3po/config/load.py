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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.paths import expand_home
from megatron_ar3po.config.presets import PRESETS
from megatron_ar3po.config.renamed import RENAMED, refuse_renamed_options
from megatron_ar3po.config.schema import Config


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Reads `files`, applies `overrides` ("rollout.num_stages=2"), fills in the preset and the defaults.

    Raises ValueError with a dotted option in it for an unknown key, a value of the wrong type or a broken rule."""
    stated: dict[str, Any] = {}
    for file in files:
        stated = _merge(stated, _read_yaml(Path(file)))
    stated = _merge(stated, _parse_overrides(overrides))
    refuse_renamed_options(stated)
    _refuse_unknown_keys(stated, Config, "")  # `algorithm` is a section, if it is there
    name = stated.get("algorithm", {}).get("name", AlgorithmConfig().name)
    preset = PRESETS.get(str(name), {})  # an unknown name is refused below, by its type
    return config_from_dict(_merge(preset, stated))


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


def _read_yaml(stated: Path) -> dict[str, Any]:
    path = Path(expand_home(str(stated)))
    if not path.is_file():
        raise ValueError(
            f"config file {path} does not exist; name a YAML file such as examples/tiny_sum/config.yaml."
        )
    try:
        read = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"config file {path} is not readable YAML: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(
            f"config file {path} holds {type(read).__name__}; it must hold sections such as 'rollout:'."
        )
    return typing.cast("dict[str, Any]", read)


def _parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals or not key:
            raise ValueError(
                f"'{word}' is not of the form section.option=value, as in rollout.num_stages=2."
            )
    parsed = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)), resolve=True)
    return typing.cast("dict[str, Any]", parsed)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        under = out.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        out[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return out


@functools.cache
def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def dotted_options(cls: type = Config, prefix: str = "") -> list[str]:
    """Every option there is, as 'section.option'."""
    names: list[str] = []
    for name, hint in _fields(cls).items():
        if dataclasses.is_dataclass(hint):
            names += dotted_options(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _refuse_unknown_keys(values: Mapping[str, Any], cls: type, prefix: str) -> None:
    fields = _fields(cls)
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in fields:
            known = dotted_options() if "." in dotted else [*_fields(Config), *dotted_options()]
            (near,) = difflib.get_close_matches(dotted, [*known, *RENAMED], n=1, cutoff=0.0)
            raise ValueError(
                f"unknown option {dotted}={value!r}; the nearest known one is {RENAMED.get(near, near)}."
            )
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, Mapping):
                inner = ", ".join(_fields(typing.cast(type, fields[key])))
                raise ValueError(f"{dotted}={value!r} must be a section with the options {inner}.")
            section = typing.cast("Mapping[str, Any]", value)
            _refuse_unknown_keys(section, typing.cast(type, fields[key]), f"{dotted}.")


def _with_lax_types(values: Mapping[str, Any]) -> dict[str, Any]:
    """`run.name=7` is read as a number by YAML; where the option is a string, it is one."""

    def walk(given: Mapping[str, Any], cls: type) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in given.items():
            hint = _fields(cls)[key]
            if dataclasses.is_dataclass(hint):
                out[key] = walk(value, typing.cast(type, hint))
            elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
                out[key] = str(value)
            elif hint is str and value is None:
                out[key] = ""
            else:
                out[key] = value
        return out

    return walk(values, Config)


def _help_line(error: Any) -> str:
    dotted = ".".join(str(part) for part in error["loc"])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        # A rule of a section says all by itself; a path does not know its option.
        return f"{dotted}={cause}" if "." in dotted else str(cause)
    given = error["input"]
    shown = (
        given
        if isinstance(given, str | int | float | bool | types.NoneType)
        else type(given).__name__
    )
    return f"{dotted}={shown}: {error['msg'][0].lower()}{error['msg'][1:]}."
