"""RUN/run_facts.json: what a run is made of beyond its options, and what was changed at its resumes.

A fact belongs to an option whose words alone do not say what was used: data.path names a file, and which prompts it
held is a fact. Facts are held against those of a resume (`resume_comparison.py`). Three more things stand here: when
the run's chat template was first rendered, for a template may write the date, and prompts must not change overnight;
what a resume changed, and after which step; and a checksum of the file itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ar3po.config.at_resume import AtResume
from megatron_ar3po.file_digests import seal, unseal
from megatron_ar3po.run.durable import write_durably

FACTS_FILE = "run_facts.json"


class Fact(NamedTuple):
    """
    >>> Fact("data.path", "prompts", "512, xxh3 5a0c", AtResume.FIXED).name
    'data.path (prompts)'
    """

    option: str  # that it belongs to
    what: str
    value: str
    at_resume: AtResume

    @property
    def name(self) -> str:
        return f"{self.option} ({self.what})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    rendered_at: datetime = field(default_factory=datetime.now)  # a chat template takes it for now
    values: Mapping[str, str] = field(default_factory=dict[str, str])  # by the fact's name
    changes: tuple[Mapping[str, Any], ...] = ()  # at resumes: option, old, new, after_step


def read_rendered_at(folder: Path) -> datetime:
    """When the chat template of the run in `folder` was first rendered; now, where the run does not say it. For whoever
    needs the run's own prompts again. Raises ValueError for a damaged file."""
    facts = read_facts(folder)
    return facts.rendered_at if facts else datetime.now()


def write_facts(folder: Path, facts: RunFacts) -> None:
    content = {
        "rendered_at": facts.rendered_at.isoformat(),
        "facts": dict(facts.values),
        "changes": list(facts.changes),
    }
    text = json.dumps(seal(content), indent=1, ensure_ascii=False)
    write_durably(folder / FACTS_FILE, text + "\n")


def read_facts(folder: Path) -> RunFacts | None:
    """None where there is no such file: of a version that wrote none. Raises ValueError for a damaged one."""
    path = folder / FACTS_FILE
    try:
        content = unseal(json.loads(path.read_text(encoding="utf-8")))
        return RunFacts(
            rendered_at=datetime.fromisoformat(content["rendered_at"]),
            values=content["facts"],
            changes=tuple(content["changes"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); mend its permissions."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): whether this run's prompts, model and verifier are still the same cannot be "
            "told. Bring the file back; or remove it, and the options alone are compared."
        ) from error
