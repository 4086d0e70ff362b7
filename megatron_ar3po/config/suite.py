"""A suite: a YAML file of benchmarks, each with samples, sampling, prompts and verifier of its own.

    defaults:                       # of all sets; what neither says is the run's
      samples: 4
      temperature: 0.6
    sets:
      math500:
        path: data/math500.jsonl
      aime24:
        path: data/aime24.jsonl
        samples: 32
        max_response_tokens: 8192
        verifier: math
        data: {apply_chat_template: true}       # any other option of these sections
        rewards: {answer_format: boxed}

A path is looked for where `data.path` is: in the folder of the command.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from megatron_ar3po.config.load import config_from_dict, merge, to_dict
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.words import read_yaml_file

# What a set says in one word, and the option that it is.
_WORDS = {
    "path": "data.path",
    "samples": "evaluation.samples_per_prompt",
    "max_prompts": "evaluation.max_prompts",
    "temperature": "evaluation.temperature",
    "top_p": "evaluation.top_p",
    "max_response_tokens": "rollout.max_response_tokens",
    "stop_token_ids": "rollout.extra_stop_token_ids",
    "verifier": "rewards.verifier",
}
_SECTIONS = ("data", "rewards")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteSet:
    """`config`: how it is evaluated, its file as `data.path`."""

    name: str
    config: Config


def suite_sets(config: Config) -> list[SuiteSet]:
    """Of `evaluation.suites`. Raises ValueError for a file that is no suite, and where two sets have one name."""
    try:
        return [s for file in config.evaluation.suites for s in read_suite(Path(file), config)]
    except ValueError as error:
        raise ValueError(f"evaluation.suites: {error}") from None


def check_suites(config: Config) -> None:
    """Raises ValueError for what is no suite, or would not be there when it is evaluated."""
    names = [found.name for found in suite_sets(config)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"evaluation.suites={config.evaluation.suites} name the set {name} twice; rename it in one of them."
            )


def read_suite(file: Path, base: Config) -> list[SuiteSet]:
    """`base`: whatever the suite does not say. Raises ValueError with the file and the set."""
    said = read_yaml_file(file)
    if unknown := sorted(set(said) - {"defaults", "sets"}):
        raise ValueError(f"{file}: unknown key {unknown[0]!r}; a suite has `defaults` and `sets`.")
    sets = said.get("sets")
    if not isinstance(sets, dict) or not sets:
        raise ValueError(f"{file}: sets={sets!r} must map names to benchmarks, one or more.")
    defaults: Any = said.get("defaults") or {}
    if isinstance(defaults, dict) and "path" in defaults:
        raise ValueError(f"{file}: defaults.path would be that of all sets; give each set its own.")
    common = _as_sections(defaults, f"{file}: defaults")
    base = replace(base, evaluation=replace(base.evaluation, path="", suites=[], max_prompts=0))
    base = replace(base, data=replace(base.data, path="", mixture={}))
    return [
        _make_set(file, str(name), words, common, base)
        for name, words in cast("dict[Any, Any]", sets).items()
    ]


def _make_set(
    file: Path, name: str, words: Any, common: Mapping[str, Any], base: Config
) -> SuiteSet:
    where = f"{file}: sets.{name}"
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{where}: the name is one of a metric and of a file; write it in letters, digits, '_', '-' and '.'."
        )
    own = _as_sections(words, where)
    if not own.get("data", {}).get("path"):
        raise ValueError(f"{where} has no path; name its file of prompts.")
    sections = merge(common, own)
    below = to_dict(base)
    if {"verifier", "by_source"} & set(sections.get("rewards", {})):
        below["rewards"]["by_source"] = {}  # the run's would go before it
    try:
        config = config_from_dict(merge(below, sections))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not Path(config.data.path).is_file():
        raise ValueError(
            f"{where}: path={config.data.path} is no file; prepare it, or mend the path."
        )
    return SuiteSet(name=name, config=config)


def _as_sections(words: Any, where: str) -> dict[str, Any]:
    """`samples: 4` as the section and option that it stands for."""
    if not isinstance(words, dict):
        raise ValueError(f"{where}={words!r} must say what there is to it, such as its path.")
    sections: dict[str, Any] = {}
    for key, value in cast("dict[Any, Any]", words).items():
        if key in _SECTIONS:
            if not isinstance(value, dict):
                raise ValueError(f"{where}.{key}={value!r} must be a section of options.")
            sections = merge(sections, {key: value})
        elif key in _WORDS:
            section, _, option = _WORDS[key].partition(".")
            sections = merge(sections, {section: {option: value}})
        else:
            known = [*_WORDS, *_SECTIONS]
            (near,) = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ValueError(f"{where}.{key} is not known; the nearest is {near}.")
    return sections


def one_set(name: str, path: str, base: Config) -> Sequence[SuiteSet]:
    """A file by itself, with all settings of `base`."""
    evaluation = replace(base.evaluation, path="", suites=[])
    data = replace(base.data, path=path, mixture={})
    return [SuiteSet(name=name, config=replace(base, data=data, evaluation=evaluation))]
