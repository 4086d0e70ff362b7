"""What a batch script asks of Slurm, as far as it decides whether a run can work: nodes, GPUs, time limit, warning.

Read where sbatch reads it: the script's #SBATCH lines, below the variables SBATCH_*, below words given to sbatch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

_SHORT = {"-N": "nodes", "-t": "time", "-a": "array"}
_VARIABLES = {
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GRES": "gres",
}
_UNLIMITED = {"unlimited", "infinite", "0", ""}
_SIGNAL_DEFAULT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SbatchOptions:
    """As they are written; "" where nothing is said."""

    nodes: str = ""
    time: str = ""
    signal: str = ""
    array: str = ""
    gpus_per_node: str = ""
    gres: str = ""

    @property
    def num_nodes(self) -> int:
        """The fewest that the job may get."""
        found = re.match(r"\d+", self.nodes)
        return int(found.group()) if found else 1

    @property
    def num_gpus_per_node(self) -> int | None:
        """None where none are asked for.

        >>> SbatchOptions(gpus_per_node="h100:8").num_gpus_per_node, SbatchOptions(gres="gpu:4").num_gpus_per_node
        (8, 4)
        """
        typed = self.gpus_per_node or next(
            (name.partition(":")[2] or "1" for name in self.gres.split(",") if name[:3] == "gpu"),
            "",
        )
        count = typed.rpartition(":")[2]
        return int(count) if count.isdecimal() else None

    @property
    def first_array_task(self) -> str:
        found = re.match(r"\d+", self.array)
        return found.group() if found else ""


def read_sbatch_options(
    script: Path, words: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> SbatchOptions:
    """`words`: what is given to sbatch before the script, as in --time=04:00:00."""
    said = dict[str, str]()
    for line in script.read_text("utf-8").splitlines():
        if line.startswith("#SBATCH"):
            said |= _read_words(shlex.split(line.removeprefix("#SBATCH"), comments=True))
        elif line and not line.startswith("#"):
            break  # sbatch reads no further
    for variable, option in _VARIABLES.items():
        if environment and variable in environment:
            said[option] = environment[variable]
    said |= _read_words(words)
    names = {name.replace("_", "-"): name for name in SbatchOptions.__slots__}
    return SbatchOptions(**{names[option]: v for option, v in said.items() if option in names})


def _read_words(words: Sequence[str]) -> dict[str, str]:
    """`--nodes=4`, `--nodes 4`, `-N 4` and `-N4` alike; of options that take no value the next one is not eaten."""
    said = dict[str, str]()
    for word, after in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        else:
            name, equals, value = _SHORT.get(word[:2], ""), "", word[2:]
        if name:
            said[name] = value if equals or value else ("" if after.startswith("-") else after)
    return said


def parse_time_limit(text: str) -> float:
    """Seconds; `inf` of no limit.

    >>> parse_time_limit("90"), parse_time_limit("1:30"), parse_time_limit("24:00:00"), parse_time_limit("1-12")
    (5400.0, 90.0, 86400.0, 129600.0)
    """
    if text.strip().lower() in _UNLIMITED:
        return inf
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise ValueError(
            f"--time={text} is no time of Slurm's; write it as in 24:00:00 or 2-00:00:00."
        )
    numbers = [int(part) for part in parts]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return float(((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(numbers) == 1:
        return numbers[0] * 60.0
    hours, minutes, seconds = [0, *numbers][-3:]
    return float((hours * 60 + minutes) * 60 + seconds)


def warning_of(signal: str) -> tuple[str, int]:
    """(who gets which signal, seconds before the time limit), of what `--signal` says.

    >>> warning_of("B:USR1@600"), warning_of("USR1")
    (('B:USR1', 600), ('USR1', 60))
    """
    who, at, seconds = signal.partition("@")
    return who, int(seconds) if at and seconds.isdecimal() else _SIGNAL_DEFAULT_S


def check_warning(time: str, warn_s: int, option: str) -> None:
    """Raises ValueError where the warning comes as soon as the job starts: it would save what it began with, and be
    requeued for nothing. `option` is the one that says `warn_s`."""
    limit_s = parse_time_limit(time)
    if warn_s >= limit_s:
        raise ValueError(
            f"{option} warns {warn_s} s before the time limit, and --time={time} is {limit_s:.0f} s in all, so the job "
            "would be told to stop as it starts, and a requeue would do the same again; raise --time, or lower "
            f"{option.partition('=')[0]} to the seconds that a step and a save take."
        )


def check_signal_reaches_script(signal: str) -> None:
    """Of launch_slurm/*.sh, which wait for it. Raises ValueError."""
    who, warn_s = warning_of(signal)
    if signal and who.removeprefix("R") not in ("B:USR1", "B:10", "B:SIGUSR1"):
        raise ValueError(
            f"--signal={signal} does not tell the batch script, so the run would not be requeued before its time "
            f"limit; write --signal=B:USR1@{warn_s}."
        )
