"""What can be seen of a run that is going on, from its files alone: `RunWatch.look` reads what is new since it last
looked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from megatron_ar3po.distributed.rank_status import read_statuses
from megatron_ar3po.observability.row_tail import RowTail
from megatron_ar3po.observability.timeline import parent_of
from megatron_ar3po.reporting.status import lines_of, marker_of
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_not_newer

# Shown as curves: what moves while a policy learns.
CURVES = (
    ("reward", "reward/mean"),
    ("pass@1", "eval/pass_at_1"),
    ("responses per prompt", "rollout/responses_per_prompt"),
    ("entropy", "actor/entropy"),
    ("clip fraction", "actor/clip_frac"),
    ("response length", "response/length_tokens"),
)
_PHASES = ("rollout", "batch", "train", "publish", "turns", "evaluation", "checkpoint")
_LAST_ROWS = 20  # of which phases and seconds are the mean
_WARNINGS = 5
_LOG_TAIL_BYTES = 200_000


@dataclass(frozen=True, kw_only=True)
class ServerSight:
    """One server, from its log: whether it writes, and what it last said of its work."""

    name: str
    silent_s: float
    said: str


@dataclass(frozen=True, kw_only=True)
class RunView:
    """At one moment."""

    name: str
    folder: str
    algorithm: str
    step: int  # the last one that has ended; -1 before the first row
    num_steps: int
    has_ended: bool
    end: str  # "DONE" or "STOPPED", or empty
    is_in_trouble: bool  # a rank has failed or is not heard of
    seconds_per_step: float | None
    seconds_left: float | None
    curves: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    groups: dict[str, float] = field(default_factory=dict[str, float])
    phases: dict[str, float] = field(default_factory=dict[str, float])
    ranks: tuple[str, ...] = ()  # lines, as of `ar3po status`
    servers: tuple[ServerSight, ...] = ()
    warnings: tuple[str, ...] = ()


class RunWatch:
    def __init__(self, folder: Path) -> None:
        """Raises ValueError where `folder` is no run."""
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; name that of a run, such as runs/NAME.")
        check_not_newer(folder)
        self._folder = folder
        self._tail = RowTail(folder / "metrics.jsonl")
        self._rows: list[dict[str, Any]] = []
        if not any((folder / n).exists() for n in ("metrics.jsonl", "status", CONFIG_FILE)):
            raise ValueError(
                f"{folder} holds nothing of a run: no metrics.jsonl, no status/; name the folder of one, such as "
                "runs/NAME."
            )

    def look(self, now: float) -> RunView:
        restarts = self._tail.num_restarts
        new = self._tail.read()
        self._rows = new if self._tail.num_restarts > restarts else self._rows + new
        config = _read_config(self._folder)
        statuses = read_statuses(self._folder / "status")
        is_alive = any(not s.end and not s.is_silent(now) for s in statuses)
        end = "" if is_alive else marker_of(self._folder)  # a resume takes its marker away later
        step = max((row["step"] for row in self._rows), default=-1)
        num_steps = int(_option(config, "run", "num_steps") or max(step, 0))
        per_step = _seconds_per_step(self._rows)
        return RunView(
            name=str(_option(config, "run", "name") or self._folder.resolve().name),
            folder=str(self._folder),
            algorithm=str(_option(config, "algorithm", "name") or ""),
            step=step,
            num_steps=num_steps,
            has_ended=bool(end) or (bool(statuses) and all(s.end for s in statuses)),
            end=end,
            is_in_trouble=not end
            and any(s.is_silent(now) or s.end.startswith("failed") for s in statuses),
            seconds_per_step=per_step,
            seconds_left=None if per_step is None else per_step * max(0, num_steps - step),
            curves=_curves(self._rows),
            groups=_groups(self._rows),
            phases=_phase_shares(self._rows),
            ranks=tuple(lines_of(statuses, now, marker=end)) if statuses else (),
            servers=tuple(_servers(self._folder / "logs", now)),
            warnings=(*_warnings(self._folder / "train.log"), *self._tail.damaged),
        )


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load((folder / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # not written yet, or half
        return {}
    return found if isinstance(found, dict) else {}


def _option(config: Mapping[str, Any], section: str, name: str) -> Any:
    options = config.get(section)
    return options.get(name) if isinstance(options, dict) else None


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    found = {
        title: [float(row[name]) for row in rows if row.get(name) is not None]
        for title, name in CURVES
    }
    return {title: values for title, values in found.items() if values}


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How the groups of the last steps ended, as shares."""
    last = [row for row in rows if "group/mixed_frac" in row][-_LAST_ROWS:]
    names = ("all_correct", "mixed", "rescued", "all_wrong", "verifier_error")
    if not last:
        return {}
    return {
        name: sum(row.get(f"group/{name}_frac") or 0 for row in last) / len(last) for name in names
    }


def _phase_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the last steps' seconds; what is in no phase is `other`."""
    last = [row for row in rows if row["step"] > 0][-_LAST_ROWS:]
    wall = sum(row.get("time/wall_s") or 0 for row in last)
    if not wall:
        return {}
    seconds = dict.fromkeys(_PHASES, 0.0)
    for row in last:
        for key, value in row.items():
            name = key.removeprefix("time/").removesuffix("_s")
            short = name.rpartition("/")[2]
            if key.startswith("time/") and short in seconds and parent_of(name) in ("", "step"):
                seconds[short] += value or 0.0
    shares = {name: s / wall for name, s in seconds.items() if s / wall >= 0.005}
    return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


def _seconds_per_step(rows: Sequence[Mapping[str, Any]]) -> float | None:
    last = [row.get("time/wall_s") or math.nan for row in rows if row["step"] > 0][-_LAST_ROWS:]
    known = [seconds for seconds in last if not math.isnan(seconds)]
    return sum(known) / len(known) if known else None


def _servers(logs: Path, now: float) -> list[ServerSight]:
    found = []
    for path in sorted(logs.glob("sglang_*.log")):
        tail = read_tail(path, 20_000)
        lines = [line for line in tail.splitlines() if "batch" in line or "rror" in line]
        found.append(
            ServerSight(
                name=path.stem.removeprefix("sglang_"),
                silent_s=round(max(0.0, now - path.stat().st_mtime), 1),
                said=re.sub(r"^\[[^]]*\]\s*", "", lines[-1])[:200] if lines else "",
            )
        )
    return found


def _warnings(log: Path) -> list[str]:
    lines = read_tail(log, _LOG_TAIL_BYTES).splitlines()
    return [line for line in lines if re.match(r"[\d:]{8}( \[[^]]*\])? warning: ", line)][
        -_WARNINGS:
    ]


def read_tail(path: Path, most: int) -> str:
    """The end of a text file that may be written just now; nothing of one that is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            text = file.read().decode("utf-8", "replace")
            return text.replace("\x1b", "\u241b")  # what others wrote moves no cursor
    except FileNotFoundError:
        return ""
