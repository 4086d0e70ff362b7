"""Whether a run that is there is the one that would be run now: by what its config came to, not by how it was said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_ar3po.config.at_resume import AtResume, read_declarations
from megatron_ar3po.config.load import load_config, to_dict
from megatron_ar3po.config.schema import Config

# Free for a resume, which goes on with a run; but they decide what a whole run comes to, or where it is measured.
_DECISIVE = {
    *("run.num_steps", "run.max_seconds", "evaluation.every_steps", "evaluation.every_responses"),
    *("data.max_prompt_tokens", "data.unusable_answers", "rewards.max_error_frac"),
}
# The comparison gives these itself: each run its name, and all runs one date (a run of a version before has it in
# run_facts.json).
_GIVEN = {"run.name", "data.template_date"}


def differing_options(resolved: Path, config: Config) -> list[str]:
    """One phrase for each option that decides what a run comes to and is another in `resolved`, the file that a run
    wrote about itself. Raises ValueError where it cannot be read."""
    try:
        there = to_dict(load_config([resolved]))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{resolved} does not say with which config its run was finished: {error}. Choose another --out, or delete "
            f"{resolved.parent} and it is run anew."
        ) from error
    here = to_dict(config)
    return [
        f"{name} is {_get(there, name)!r} there and {_get(here, name)!r} here"
        for name in _compared_options(config)
        if _get(there, name) != _get(here, name)
    ]


def _compared_options(config: Config) -> Iterator[str]:
    for section in to_dict(config):
        for option, kind in read_declarations(type(getattr(config, section))).items():
            name = f"{section}.{option}"
            is_compared = kind is not AtResume.FREE or name in _DECISIVE
            if is_compared and name not in _GIVEN:
                yield name


def _get(values: dict[str, Any], name: str) -> Any:
    section, _, option = name.partition(".")
    return values[section][option]
