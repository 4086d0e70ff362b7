"""Text -> values, by the declared type of each option: YAML files and `key=value` words.

YAML's own reading would make 2024_01_05 a number, 12:30 a number of seconds and `no` a false. Here an option that is
text keeps the text that stands there, and a number is read as one writes it in Python or in JSON. Options without
declared ones of their own (`servers.sglang`) are read as YAML. In a file nothing, or null, is empty text; and `${...}`
is filled in, as OmegaConf does.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_ar3po.config.declared import fields_of, is_text
from megatron_ar3po.config.paths import expand_home
from megatron_ar3po.config.schema import Config

_NULL, _YAML_FLOAT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:float"
_YAML_TIME, _YAML_MAP = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:map"


class _Loader(yaml.SafeLoader):
    """1e-3 is a number, as in YAML 1.2, and a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_YAML_FLOAT, _YAML_TIME)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    _YAML_FLOAT,
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml_file(stated: Path) -> dict[str, Any]:
    """Raises ValueError with the file's name for what is no file of sections."""
    path = Path(expand_home(str(stated)))
    if path.is_dir():
        raise ValueError(
            f"config {path} is a folder; name a YAML file in it, as {path / 'config.yaml'}."
        )
    if not path.is_file():
        raise ValueError(
            f"config file {path} does not exist; name a YAML file such as examples/tiny_sum/config.yaml."
        )
    try:
        loader = _Loader(path.read_bytes())
        node = loader.get_single_node()
        read: Any = {} if node is None else _value_of(node, Config, loader)
        if "${" in path.read_text("utf-8"):
            read = OmegaConf.to_container(OmegaConf.create(read), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"config file {path} is not readable YAML: {said}") from None
    except OSError as error:
        raise ValueError(f"config file {path} cannot be read: {error.strerror}.") from None
    if not isinstance(read, dict):
        raise ValueError(
            f"config file {path} holds {type(read).__name__}; it must hold sections such as 'rollout:'."
        )
    return typing.cast("dict[str, Any]", read)


def parse_words(words: Sequence[str]) -> list[dict[str, Any]]:
    """Each of "rollout.num_stages=2" as sections with options."""
    return [_parse_word(word) for word in words]


def _parse_word(word: str) -> dict[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ValueError(
            f"'{word}' is not of the form section.option=value, as in rollout.num_stages=2."
        )
    names = key.split(".")
    value: Any = _value_of_word(key, text, _hint_at(names))
    for name in reversed(names):
        value = {name: value}
    return value


def _hint_at(names: Sequence[str]) -> Any:
    """The type of the option of this name; `Any` inside an option of its own, and where there is none."""
    hint: Any = Config
    for name in names:
        hint = fields_of(hint).get(name, Any) if dataclasses.is_dataclass(hint) else Any
    return hint


def _value_of_word(key: str, text: str, hint: Any) -> Any:
    """A word in YAML's quotes, as in `run.name="'7'"`, is what they hold."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if hint in (int, float, bool) or (is_text(hint) and not is_quoted):
        return read_scalar(text, hint)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _value_of(node, hint, loader)
    except (yaml.YAMLError, RecursionError) as error:
        said = getattr(error, "problem", None) or str(error)
        form = f"a list, as in {key}=[a, b]" if typing.get_origin(hint) is list else "a value"
        raise ValueError(f"{key}={text} cannot be read ({said}); write {form}.") from None


def read_scalar(text: str, hint: Any) -> Any:
    """What the text says to an option of this type; the text itself where it says nothing to it.

    >>> read_scalar("1e3", str), read_scalar("1e3", int), read_scalar("1e3", float)
    ('1e3', 1000, 1000.0)
    >>> read_scalar("12:30", int), read_scalar("010", int), read_scalar("-.inf", float), read_scalar("two", int)
    ('12:30', 10, -inf, 'two')
    """
    if hint not in (int, float):
        return text
    plain = text.strip().lower()
    if re.fullmatch(r"[-+]?\.(inf|nan)", plain):  # as YAML spells them
        plain = plain.replace(".", "")
    try:
        if hint is int and re.fullmatch(r"[-+]?0[xob]\w+", plain):
            return int(plain, 0)
        if hint is int and re.fullmatch(r"[-+]?[0-9_]+", plain):
            return int(plain)
        number = float(plain)
    except ValueError:
        return text
    return int(number) if hint is int and math.isfinite(number) and number.is_integer() else number


def _value_of(node: yaml.Node, hint: Any, loader: _Loader) -> Any:
    is_section = dataclasses.is_dataclass(hint)
    is_mapping = typing.get_origin(hint) is dict and node.tag == _YAML_MAP
    if (is_section or is_mapping) and isinstance(node, yaml.MappingNode):
        return _mapping_of(node, fields_of(typing.cast(type, hint)) if is_section else {}, loader)
    if typing.get_origin(hint) is list and isinstance(node, yaml.SequenceNode):
        (inner,) = typing.get_args(hint)
        return [_value_of(each, inner, loader) for each in node.value]
    if isinstance(node, yaml.ScalarNode) and (is_text(hint) or hint in (int, float)):
        if node.tag == _NULL and node.style is None:
            return "" if hint is str else None
        return read_scalar(node.value, hint)
    return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]


def _mapping_of(
    node: yaml.MappingNode, hints: Mapping[str, Any], loader: _Loader
) -> dict[str, Any]:
    """Its keys are text. `hints`: the types of a section's options."""
    own = [id(key) for key, _ in node.value]
    loader.flatten_mapping(node)  # `<<: *other`, which goes before what is said here
    read, said = dict[str, Any](), dict[str, yaml.Node]()
    for key, value in node.value:
        name = str(key.value)
        if id(key) in own and name in said:
            raise yaml.MarkedYAMLError(
                problem=f"{name} is there twice", problem_mark=key.start_mark
            )
        if id(key) in own:
            said[name] = key
        read[name] = _value_of(value, hints.get(name, Any), loader)
    return read
