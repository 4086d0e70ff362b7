"""What the nodes of the newest job of a run have said before any rank had something to say: the ends of its logs, a
line a node. For a run that never began."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_TAIL_BYTES = 20_000
_MOST_LINES = 16
_STARTED = r"\[node\] .*torch.distributed.run"  # after a node's checks
_PROBLEM = r"preflight: .*(?<!: ready)$"
# The first that is there: what went wrong before what was begun.
_TELLING = (
    r"ar3po: error: ",
    r"slurmstepd\S*: error: .*CANCELLED",
    r"^\[node\] .*rank",
    r"\w*Error: |srun: error: ",
    r"\[node\] ",
    r"preflight: ",
)


def newest_job(run: Path) -> Path | None:
    """Its folder of logs, if a batch script has made one."""
    found = [path for path in run.glob("logs/job_*/restart_*") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def node_lines(job: Path) -> Iterator[str]:
    """As in "node_1: preflight: node node2: port 23456 is taken"."""
    logs = sorted(job.glob("node_*.log"), key=lambda path: (len(path.name), path.name))
    for path in logs[:_MOST_LINES]:
        yield f"{path.stem}: {_telling_line(path)}"
    if len(logs) > _MOST_LINES:
        yield f"and {len(logs) - _MOST_LINES} nodes more"
    if not logs:
        yield "no node has started: the job's own output file tells why"


def _telling_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = [x.strip() for x in file.read().decode("utf-8", "replace").splitlines()]
    lines = [line.replace("\x1b", "\u241b") for line in lines if line]
    has_started = any(re.match(_STARTED, line) for line in lines)
    for pattern in _TELLING if has_started else (_PROBLEM, *_TELLING):
        if found := [line for line in lines if re.search(pattern, line)]:
            return found[-1][:300]
    return lines[-1][:300] if lines else "nothing yet"
