"""What can be read of a run's folder, whatever state it is in: a run that is going on, one that was cut off, files that
are half there or of a later version. What could not be read is said in `notes`, a sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.folder_owner import NAME as OWNER_NOTE
from megatron_ar3po.folder_owner import living_owner
from megatron_ar3po.observability.row_file import iter_rows
from megatron_ar3po.reporting.ledger_columns import LedgerColumns
from megatron_ar3po.reporting.recorded_groups import RecordedGroups, read_groups
from megatron_ar3po.rollout.ledger_file import stream_ledger
from megatron_ar3po.run.folder_format import CONFIG_FILE, VERSION_FILE, check_not_newer
from megatron_ar3po.sampling_cost import CostTally, SamplingCost

_FILES = (CONFIG_FILE, VERSION_FILE, "metrics.jsonl", "rollouts.jsonl", "ledger", "checkpoints")
_STARTING = ("owner.json", "status", "run_facts.json", "train.log", "logs")
_READABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True, kw_only=True)
class RunData:
    folder: Path
    config: Mapping[str, Any]  # as resolved; empty where there is none
    rows: list[dict[str, Any]]  # of metrics.jsonl, by step
    columns: LedgerColumns
    cost: SamplingCost
    recorded: RecordedGroups
    checkpoints: tuple[int, ...]  # steps of those that are there
    has_ended: bool
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.setting("run.name") or self.folder.resolve().name)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Rows of training steps: not that of the evaluation before the first."""
        return [row for row in self.rows if row["step"] > 0]

    @property
    def last_step(self) -> int:
        return max((row["step"] for row in self.rows), default=0)

    def setting(self, option: str) -> Any:
        """Of a dotted option; None where the config does not say."""
        section, _, name = option.partition(".")
        values = self.config.get(section)
        return values.get(name) if isinstance(values, dict) else None


class _Damages:
    """What files did not hold what they should: the first of each file, and how many more."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def add(self, text: str) -> None:
        file = text.split(":", 1)[0].split(" ", 1)[0]
        self._first.setdefault(file, text)
        self._counts[file] = self._counts.get(file, 0) + 1

    def sentences(self) -> Iterator[str]:
        for file, text in self._first.items():
            more = self._counts[file] - 1
            others = (
                f"; it and {more:,} more of this file are left out" if more else "; it is left out"
            )
            yield f"{text}{others}."


def read_run(folder: Path) -> RunData:
    """Raises ValueError, in one sentence, where `folder` holds nothing of a run."""
    _check_there_is_a_run(folder)
    damages, notes = _Damages(), list(_notes_of_version(folder))
    config = _read_config(folder, notes)
    rows = list(_read_metrics(folder, damages, notes))
    columns, cost = _read_ledger(folder, damages)
    recorded = read_groups(folder / "rollouts.jsonl", damages.add)
    has_ended = (folder / "DONE").exists()
    data = RunData(
        folder=folder,
        config=config,
        rows=rows,
        columns=columns,
        cost=cost,
        recorded=recorded,
        checkpoints=_checkpoints(folder),
        has_ended=has_ended,
        notes=(*notes, *damages.sentences()),
    )
    if has_ended:
        return data
    return RunData(**{**vars(data), "notes": (_state_of(data), *data.notes)})


def _check_there_is_a_run(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name a run's folder, such as runs/NAME.")
    if not any((folder / name).exists() for name in (*_FILES, *_STARTING)):
        raise ValueError(
            f"{folder} holds nothing that a run writes; name a run's folder, such as runs/NAME."
        )


def _notes_of_version(folder: Path) -> Iterator[str]:
    try:
        check_not_newer(folder)
    except ValueError as error:  # the report shows what it can read all the same
        yield f"{error} What this version can read of it is shown."


def _read_config(folder: Path, notes: list[str]) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text("utf-8"))
    except FileNotFoundError:
        notes.append(f"There is no {CONFIG_FILE}, so the run's options are not known.")
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        notes.append(f"{CONFIG_FILE} cannot be read ({said}), so the run's options are not known.")
        return {}
    return config if isinstance(config, dict) else {}


def _read_metrics(folder: Path, damages: _Damages, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Rows whose values are numbers; others are left out of them."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        notes.append("There is no metrics.jsonl: the run has not finished a step, or it was lost.")
        return
    seen: dict[int, dict[str, Any]] = {}
    for row in iter_rows(path, damages.add):
        try:
            step = int(row["step"])
            numbers = {name: value for name, value in row.items() if _is_number(value)}
        except _READABLE as error:
            damages.add(f"{path.name} has a row of another make ({type(error).__name__}: {error})")
            continue
        seen.setdefault(step, {}).update(numbers | {"step": step})
    if not seen:
        notes.append("metrics.jsonl has no whole row yet.")
    yield from (seen[step] for step in sorted(seen))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_ledger(folder: Path, damages: _Damages) -> tuple[LedgerColumns, SamplingCost]:
    columns, tally = LedgerColumns(), CostTally()
    for row in stream_ledger(folder / "ledger", damages.add):
        try:
            tally.add(row)
            columns.add(row)
        except _READABLE as error:
            damages.add(f"ledger has a row of another make ({type(error).__name__}: {error})")
    return columns, tally.result()


def _checkpoints(folder: Path) -> tuple[int, ...]:
    names = (path.name for path in (folder / "checkpoints").glob("step_*") if path.is_dir())
    steps = (name.removeprefix("step_") for name in names)
    return tuple(sorted(int(step) for step in steps if step.isdigit()))


def _state_of(data: RunData) -> str:
    total = data.setting("run.num_steps")
    done = f"step {data.last_step:,}" + (f" of {total:,}" if isinstance(total, int) else "")
    if (data.folder / "STOPPED").exists():
        return f"The run was stopped after {done}; run.resume=true goes on from there."
    owner = living_owner(data.folder / OWNER_NOTE)
    if owner is not None:
        return f"The run is still going on ({done}): what follows is what it has written so far."
    return f"The run ended after {done} without saying so: it was cut off, and what it had written is shown."
