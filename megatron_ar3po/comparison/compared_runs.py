"""Runs that are there already, as `ar3po compare` reads them: options, facts, metrics, and what the ledger says of each
prompt. Runs that differ in their seed alone are one variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ar3po.comparison.curves import position_after
from megatron_ar3po.config.load import load_config, to_dict
from megatron_ar3po.observability.row_file import iter_rows
from megatron_ar3po.reporting.visits import Visits, explain_untold, gather_visits
from megatron_ar3po.rollout.ledger_file import stream_ledger
from megatron_ar3po.run.facts import read_facts
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_not_newer

Array = np.ndarray[Any, Any]

# Where a run lies, how it is shown, and when it saves: no difference of what was done.
_NO_DIFFERENCE = (
    "run.name",
    "run.dir",
    "run.seed",
    "run.resume",
    "run.progress",
    "run.allow_changed",
)
_NO_SECTIONS = ("checkpoint", "observability", "debug", "colocation")
AXES = ("steps", "responses", "tokens", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    name: str
    options: Mapping[str, Any]  # dotted; what does not decide is left out
    facts: Mapping[str, str]
    seed: int
    rows: Sequence[Mapping[str, Any]]  # of metrics.jsonl
    positions: Mapping[str, Array]  # by axis: where the run stands after each of the rows
    visits: Visits  # of the prompts it trained on; none where `untold` says why
    untold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGroup:
    """One variant: runs of one config under several seeds."""

    name: str
    runs: tuple[ComparedRun, ...]  # by seed, each once

    @property
    def by_seed(self) -> dict[int, ComparedRun]:
        return {run.seed: run for run in self.runs}


def read_compared_run(folder: Path, name: str = "") -> ComparedRun:
    """Raises ValueError for a folder that is no run, or whose files are damaged."""
    check_not_newer(folder)
    for needed in (CONFIG_FILE, "metrics.jsonl"):
        if not (folder / needed).is_file():
            raise ValueError(f"{folder} holds no {needed}; name a run's folder, such as runs/NAME.")
    config = load_config([folder / CONFIG_FILE])
    rows = [row for row in iter_rows(folder / "metrics.jsonl") if "step" in row]
    facts = read_facts(folder)
    untold = explain_untold(config.rollout)
    ledger = stream_ledger(folder / "ledger") if not untold else ()
    return ComparedRun(
        name=name or folder.name,
        options={
            f"{section}.{option}": value
            for section, options in to_dict(config).items()
            if section not in _NO_SECTIONS
            for option, value in options.items()
            if f"{section}.{option}" not in _NO_DIFFERENCE
        },
        facts=facts.values if facts else {},
        seed=config.run.seed,
        rows=rows,
        positions=positions_of(rows),
        visits=gather_visits(ledger, config.rollout.stage_sizes),
        untold=untold,
    )


def positions_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Two steps of 64 and 96 responses, 0.5 s each, after the evaluation of step 0: 0, 64, 160 and 0, 0.5, 1."""
    found: dict[str, list[float]] = {axis: [] for axis in AXES}
    responses = tokens = seconds = 0.0
    for row in rows:
        responses = position_after(row, "responses", responses)
        tokens = position_after(row, "tokens", tokens)
        seconds += row.get("time/step_s") or 0.0
        for axis, at in zip(AXES, (row["step"], responses, tokens, seconds), strict=True):
            found[axis].append(float(at))
    return {axis: np.array(values) for axis, values in found.items()}


def group_runs(runs: Sequence[ComparedRun]) -> list[RunGroup]:
    """In the order in which the first run of each was given. Raises ValueError for two runs of one config and seed: the
    same run twice says nothing of chance."""
    groups: list[list[ComparedRun]] = []
    for run in runs:
        there = next((group for group in groups if group[0].options == run.options), None)
        if there is None:
            groups.append([run])
            continue
        for other in there:
            if other.seed == run.seed:
                raise ValueError(
                    f"{run.name} and {other.name} have the same options and run.seed={run.seed}: leave one of them out."
                )
        there.append(run)
    names = name_groups([group[0] for group in groups])
    return [
        RunGroup(name=name, runs=tuple(sorted(group, key=lambda run: run.seed)))
        for name, group in zip(names, groups, strict=True)
    ]


def name_groups(firsts: Sequence[ComparedRun]) -> list[str]:
    """By their algorithms where these tell them apart, else by their runs' names."""
    algorithms = [str(run.options.get("algorithm.name", "")) for run in firsts]
    if len(set(algorithms)) == len(firsts):
        return algorithms
    names = [run.name for run in firsts]
    if len(set(names)) == len(firsts):
        return names
    return [f"{number} {name}" for number, name in enumerate(names, start=1)]
