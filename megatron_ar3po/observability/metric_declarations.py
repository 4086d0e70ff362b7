"""What a metric is: its name, its unit, and what goes wrong when it rises (`declared_metrics.py` has them all). From
these come docs/metrics.md and `ar3po metrics`.

A name may have parts that a run fills in: `{stage}` (1, 2, ...), `{k}`, `{source}` and `{set}` (any text without a
slash).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class MetricDeclaration:
    name: str
    unit: str
    what: str
    watch: str = ""  # what it means when it rises, or falls

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        parts = re.split(r"(\{\w+\})", self.name)
        return re.compile("".join(_PARTS.get(part, re.escape(part)) for part in parts))

    def declares(self, name: str) -> bool:
        """
        >>> stage = MetricDeclaration("rollout/stage_{stage}/responses", "responses", "sampled in a stage")
        >>> stage.declares("rollout/stage_2/responses"), stage.declares("rollout/stage_2/prompts")
        (True, False)
        """
        return self.pattern.fullmatch(name) is not None


_PARTS = {"{stage}": r"\d+", "{k}": r"\d+", "{source}": r"[^/]+", "{set}": r"[^/]+"}


@dataclass(frozen=True)
class MetricSection:
    title: str
    about: str
    metrics: tuple[MetricDeclaration, ...]


def find_declaration(name: str, sections: Sequence[MetricSection]) -> MetricDeclaration | None:
    """The one that names it in full goes before one that names its kind."""
    everything = [m for section in sections for m in section.metrics]
    exact = next((m for m in everything if m.name == name), None)
    return exact or next((m for m in everything if m.declares(name)), None)


_INTRODUCTION = """\
# Metrics

One row a step in `RUN/metrics.jsonl`, under these names, in TensorBoard, W&B and MLflow too
([docs/observing.md](observing.md)). Row 0 is the evaluation before the first step. A metric is missing from a row in
which it has no meaning (no evaluation was due, no response was borrowed); `null` is a number that is none. Everything
is of the whole step: over all replicas, sums are added, means are weighted by what they are means of, seconds are those
of the slowest replica. What begins with `eval/` is of held-out prompts, everything else of the step's own.

Written by `ar3po metrics --markdown > docs/metrics.md`, from `megatron_ar3po/observability/declared_metrics.py`.
"""


def as_markdown(sections: Sequence[MetricSection]) -> str:
    """docs/metrics.md."""
    lines = [_INTRODUCTION]
    for section in sections:
        lines += [f"## {section.title}", "", section.about, ""]
        lines += ["| name | unit | what it is | when to look |", "|---|---|---|---|"]
        lines += [f"| `{m.name}` | {m.unit} | {m.what} | {m.watch} |" for m in section.metrics]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
