"""The model card of an exported policy (README.md of its folder): what it was trained from, on which prompts, by which
commit and config, and what its run measured. All of it is read from the run's folder."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.run.facts import read_facts

_DATA, _CODE = ("data.", "evaluation.", "rewards."), ("packages",)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What the folder holds."""

    run: Path
    config: Config
    step: int
    checksum: str  # of the weights, as tools/convert_checkpoint.py checksum prints it


def make_card(exported: Exported) -> str:
    config = exported.config
    facts = read_facts(exported.run)
    values = dict(facts.values) if facts else {}
    about = {
        "step": f"{exported.step} of {config.run.num_steps}",
        "algorithm": config.algorithm.name,
        "base model": f"`{config.model.path}`",
        "weights": f"checksum `{exported.checksum}`",
        "sampling": f"temperature {config.rollout.temperature:g}, top_p {config.rollout.top_p:g}, at most "
        f"{config.rollout.max_response_tokens} tokens",
    }
    return "\n".join(
        [
            *("---", "library_name: transformers", "pipeline_tag: text-generation"),
            *("tags: [reinforcement-learning, megatron_ar3po]", "---", ""),
            *(f"# {config.run.name}, step {exported.step}", ""),
            *textwrap.wrap(
                f"A policy trained by megatron_ar3po with {config.algorithm.name} (AR3PO: arXiv:2509.25808).",
                120,
            ),
            *("", *_table(("", ""), about.items())),
            *("", "## Figures", "", *_tell_figures(_figures(exported))),
            *("", "## Data", "", *_tell_facts(values, _DATA, "which prompts it was trained on")),
            *("", "## Code", "", *_tell_facts(values, _CODE, "what it was trained by")),
            *("", "## Config", "", "```yaml", to_yaml(config).rstrip(), "```", ""),
        ]
    )


def _figures(exported: Exported) -> list[dict[str, Any]]:
    """Rows of the run's evaluations, up to the step that is exported."""
    path = exported.run / "metrics.jsonl"
    rows = read_rows(path) if path.is_file() else []
    return [
        {name: value for name, value in row.items() if name == "step" or _is_figure(name)}
        for row in rows
        if row["step"] <= exported.step and any(map(_is_figure, row))
    ]


def _is_figure(name: str) -> bool:
    last = name.rpartition("/")[2]
    return name.startswith("eval/") and last.startswith(("pass_at_", "maj_at_", "prompts"))


def _tell_figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the first evaluation and the last one: before and after."""
    if not rows:
        return ["The run was not evaluated."]
    shown = [rows[0], rows[-1]] if len(rows) > 1 else [rows[0]]
    names = sorted({name for row in shown for name in row if name != "step"})
    heads = ["held-out prompts", *(f"after step {row['step']}" for row in shown)]
    return _table(
        heads, [(name, *(_tell_figure(row.get(name)) for row in shown)) for name in names]
    )


def _tell_figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.4f}"


def _tell_facts(values: Mapping[str, str], of: tuple[str, ...], what: str) -> list[str]:
    found = {name: value for name, value in values.items() if name.startswith(of)}
    if not found:
        return [f"The run does not say {what}."]
    return _table(("", ""), [(f"`{name}`", value) for name, value in found.items()])


def _table(heads: Sequence[str], rows: Any) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
