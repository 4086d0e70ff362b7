"""What a resume would change in a run: resolved_config.yaml and run_facts.json against the options and facts of now.

All of it is found before anything is done: what is fixed stands in one refusal, what is warned of in a line each. The
classes are those of config/at_resume.py; `run.allow_changed` lets a fixed one pass.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from megatron_ar3po.config.at_resume import AtResume, read_declarations
from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.run.durable import has_valid_checksum
from megatron_ar3po.run.facts import FACTS_FILE, Fact, RunFacts, read_facts
from megatron_ar3po.run.folder_format import CONFIG_FILE


class Change(NamedTuple):
    name: str  # "run.seed"; of a fact "data.path (prompts)"
    old: Any
    new: Any
    at_resume: AtResume

    @property
    def option(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def is_fact(self) -> bool:
        return self.name != self.option

    def describe(self) -> str:
        """
        >>> Change("actor.lr_decay", "constant", "linear", AtResume.WARN).describe()
        'actor.lr_decay was constant and is linear now'
        """
        return f"{self.name} was {_show(self.old)} and is {_show(self.new)} now"


class Comparison(NamedTuple):
    facts: RunFacts  # of the run from here on
    changes: tuple[Change, ...] = ()  # that a resume makes and may make, but is to warn of
    note: str = ""  # where there was too little to compare with


def compare_with_run(config: Config, facts: Sequence[Fact], now: datetime) -> Comparison:
    """What this start is to the run in its folder. Raises ValueError with all that a resume may not change. Changes
    nothing."""
    values = {fact.name: fact.value for fact in facts}
    new_facts = RunFacts(rendered_at=now, values=values)
    folder = config.run.path
    if not config.run.resume or not folder.is_dir():
        return Comparison(new_facts)
    old_facts = read_facts(
        folder
    )  # a version that wrote them wrote a checksum beside the options too
    old = _read_options(folder / CONFIG_FILE, has_checksum=old_facts is not None)
    options = compare_options(old, config) if old else []
    changes = [*options, *compare_facts(old_facts, facts)]
    allowed = config.run.allow_changed
    refused = [c for c in changes if c.at_resume is AtResume.FIXED and not _is_allowed(c, allowed)]
    if refused:
        raise ValueError(_explain_refusal(folder, refused, changes))
    warned = tuple(change for change in changes if change.at_resume is not AtResume.FREE)
    if old_facts:
        new_facts = replace(old_facts, values=values)
    missing = [name for name, found in ((CONFIG_FILE, old), (FACTS_FILE, old_facts)) if not found]
    has_run = old or old_facts or (folder / "checkpoints").is_dir()
    return Comparison(new_facts, warned, _explain_missing(folder, missing) if has_run else "")


def add_changes(facts: RunFacts, changes: Iterable[Change], *, step: int) -> RunFacts:
    """With what a resume after `step` changes. What one has changed that did not get far is not written twice."""
    entries = [
        {"after_step": step, "option": change.name, "old": change.old, "new": change.new}
        for change in changes
    ]
    new = [entry for entry in entries if entry not in facts.changes]
    return replace(facts, changes=(*facts.changes, *new))


def compare_options(old: Mapping[str, Any], config: Config) -> list[Change]:
    """`old`: sections with their options. An option that the old run did not know yet had its default."""
    new = yaml.safe_load(to_yaml(config))  # as it is read back
    default = yaml.safe_load(to_yaml(Config()))
    hints = typing.get_type_hints(Config)
    changes: list[Change] = []
    for section in new:
        declared = read_declarations(hints[section])
        before = {**default[section], **old.get(section, {})}
        for option in {**new[section], **before}:
            at_resume = declared.get(option, AtResume.WARN) or AtResume.FIXED
            name = f"{section}.{option}"
            if name == "run.num_steps" and config.actor.lr_decay != "constant":
                at_resume = AtResume.WARN  # of another length, the decay has another rate here
            found = _differences(name, before.get(option), new[section].get(option))
            changes += [Change(changed, was, is_, at_resume) for changed, was, is_ in found]
    return changes


def compare_facts(old: RunFacts | None, facts: Iterable[Fact]) -> list[Change]:
    """What only one of the two knows is no change: where an option names nothing there is no fact of it."""
    return [
        Change(fact.name, old.values[fact.name], fact.value, fact.at_resume)
        for fact in facts
        if old is not None and old.values.get(fact.name, fact.value) != fact.value
    ]


def _read_options(path: Path, *, has_checksum: bool) -> dict[str, dict[str, Any]] | None:
    try:
        text = path.read_text(encoding="utf-8")
        if has_checksum and not has_valid_checksum(text):
            raise ValueError("its checksum differs: it was edited, or the disk has changed it")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); mend its permissions."
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({_first_line(error)}); {_BRING_BACK}") from error
    sections = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if not sections or not all(isinstance(options, dict) for options in sections.values()):
        raise ValueError(f"{path} is damaged (it holds no sections of options); {_BRING_BACK}")
    return sections


_BRING_BACK = (
    "bring the file back, or remove it: then a resume compares nothing, and writes it anew."
)


def _differences(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """The options of others (`servers.sglang`, `actor.megatron`) are compared one by one. None: it was not set.

    >>> _differences("servers.sglang", {"a": 1, "b": 2, "c": 3}, {"b": 4, "c": 3})
    [('servers.sglang.a', 1, None), ('servers.sglang.b', 2, 4)]
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in {**old, **new}
            for found in _differences(f"{name}.{key}", old.get(key), new.get(key))
        ]
    return [] if old == new else [(name, old, new)]


def _is_allowed(change: Change, allowed: Sequence[str]) -> bool:
    return any(f"{change.option}.".startswith(f"{name}.") for name in allowed)


def _explain_refusal(folder: Path, refused: Sequence[Change], changes: Sequence[Change]) -> str:
    """A fact may have changed for another option of its section, as prompts for `data.prompt_field`: those stand beside
    it, whatever their class."""
    sections = {change.name.partition(".")[0] for change in refused if change.is_fact}
    shown = [c for c in changes if c in refused or c.name.partition(".")[0] in sections]
    options = list(dict.fromkeys(change.option for change in refused))
    return "\n".join(
        [
            f"run.dir={folder} cannot go on with this config: two unlike runs would be one curve.",
            *(f"  {change.describe()}" for change in shown),
            f"Set back what was ({folder / CONFIG_FILE}); or start a new run (run.resume=false, another run.name or "
            f"run.dir), from this one's policy with model.path={folder / 'hf'} (checkpoint.export_hf=true writes it); "
            f"or, if one curve is what you want, add run.allow_changed=[{','.join(options)}].",
        ]
    )


def _explain_missing(folder: Path, missing: Sequence[str]) -> str:
    unknown = {
        CONFIG_FILE: "options are what they were",
        FACTS_FILE: "the files of data.path, evaluation.path and model.path hold what they held",
    }
    return "; ".join(
        f"{folder} has no {name}: whether {unknown[name]} is not known" for name in missing
    )


def _show(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, str):
        return value or "empty"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
