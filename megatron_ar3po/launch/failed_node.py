"""`ar3po launch failed-node RUN LOGS --nodes a,b`: which node a job failed of, and whether starting it again on others
makes sense. launch.sh asks it where MAX_CRASH_RESTARTS is set; it prints the node (or -) and a reason, and ends with 3
where another try would end as this one did.

What it goes by, the surer before the less sure:
- a node that was not ready (exit code 3 of launch.node), unless all were not, or another one before it of the same;
- the rank that the others waited for when they gave up, by what all have written (RUN/status);
- the node whose task was the first to fail, as srun saw it, if the job had made a step before.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.distributed.rank_status import FAILED_WAITING, RankStatus, read_statuses
from megatron_ar3po.distributed.stragglers import find_stragglers
from megatron_ar3po.launch.node import CANNOT_START, PREFLIGHT_FAILED

NO_NODE, NOT_AGAIN = "-", 3
# "srun: error: node2: task 1: Exited with exit code 1"; several tasks at once: "node[2-3]: tasks 1-2"
_TASK_ENDED = re.compile(r"^srun: error: (\S+): tasks? [\d,-]+: (.*)$", re.MULTILINE)
# As `RankStatus.describe` has it, up to the next one.
_NAMED = re.compile(r"rank (\d+) \(([^,()]+), pid \d+\)(: [^;]*?)?(?=;|$)")


class Cause(NamedTuple):
    node: str  # "" where none is to blame
    reason: str
    may_go_on: bool


def add_failed_node_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "failed-node",
        help="the node that a job of launch_slurm/ failed of, as a job asks for it",
        description="Prints the node that a job failed of (or -) and why. Exit code 3 where another try would end as "
        "this one did.",
    )
    parser.add_argument("run", type=parse_path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "logs", type=parse_path, metavar="LOGS", help="RUN/logs/job_JOB/restart_N of that job"
    )
    parser.add_argument("--nodes", required=True, metavar="A,B", help="of the job, in its order")
    parser.add_argument("--began", type=float, default=0.0, help="seconds since the epoch")
    parser.add_argument("--earlier", default="", metavar="REASON", help="of the crash before")
    parser.set_defaults(command=failed_node_command)


def failed_node_command(arguments: argparse.Namespace) -> int:
    nodes = arguments.nodes.split(",")
    cause = find_cause(
        arguments.run, arguments.logs, nodes, began=arguments.began, earlier=arguments.earlier
    )
    reason = cause.reason.replace(
        "\n", " "
    )  # an error may have several lines; a crash is one of launch.sh's
    print(f"{cause.node or NO_NODE}\n{reason}")
    return 0 if cause.may_go_on else NOT_AGAIN


def find_cause(
    run: Path, logs: Path, nodes: Sequence[str], *, began: float = 0.0, earlier: str = ""
) -> Cause:
    """`logs` has what srun said, in srun.log. `began`: when the job started, by the clock of its nodes."""
    said = _read(logs / "srun.log")
    ended = [(node, how) for node, how in _TASK_ENDED.findall(said)]
    if any(_has_code(how, CANNOT_START) for _, how in ended):
        return Cause("", "a node could not read its config", False)
    unready = [
        node
        for names, how in ended
        if _has_code(how, PREFLIGHT_FAILED)
        for node in expand_names(names)
    ]
    if unready:
        return _judge_unready(unready, logs, nodes, earlier)
    statuses = [s for s in read_statuses(run / "status") if s.written >= began]
    steps, (node, who) = _count_steps(run, statuses, began), _find_awaited(statuses)
    if node in nodes:
        has_failed = "): failed" in who  # by itself, as it might on any node
        return Cause(node, f"the others waited for {who}", not has_failed or steps > 0)
    return _judge_first_to_fail(ended, nodes, steps)


def _find_awaited(statuses: Sequence[RankStatus]) -> tuple[str, str]:
    """(node, rank and what it was at), where ranks gave up in a collective: whom the first of them names, for a process
    that stood still may write again once Slurm ends it; else who had failed by itself then, or was silent or behind."""
    gave_up = _gave_up(statuses)
    for status in gave_up:
        for named in _NAMED.finditer(status.end):
            if int(named.group(1)) != status.rank:
                return named.group(2), named.group()
    if not gave_up:
        return "", ""
    when = gave_up[0].written
    others = [s for s in statuses if s not in gave_up]
    late = [s for s in find_stragglers(others, when, is_waited=True) if s.end != "ended"]
    awaited = min(late, key=lambda s: (not s.end, not s.is_silent(when), s.written), default=None)
    return (awaited.host, _describe(awaited, when)) if awaited is not None else ("", "")


def _describe(awaited: RankStatus, when: float) -> str:
    if awaited.end:
        return f"{awaited.who}: {awaited.end}"
    silent_s = max(0.0, when - awaited.written)
    return f"{awaited.who}, in {awaited.phase}, last heard of {silent_s:.0f} s before they gave up"


def _gave_up(statuses: Sequence[RankStatus]) -> list[RankStatus]:
    """The first one first."""
    return sorted(
        (s for s in statuses if s.end.startswith(FAILED_WAITING)), key=lambda s: s.written
    )


def expand_names(names: str) -> list[str]:
    """
    >>> expand_names("node2"), expand_names("gpu[08-10,12]-ib")
    (['node2'], ['gpu08-ib', 'gpu09-ib', 'gpu10-ib', 'gpu12-ib'])
    """
    head, bracket, rest = names.partition("[")
    if not bracket:
        return [names]
    numbers, _, tail = rest.partition("]")
    found = []
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        found += [
            f"{head}{number:0{len(first)}}{tail}"
            for number in range(int(first), int(last or first) + 1)
        ]
    return found


def _judge_unready(unready: Sequence[str], logs: Path, nodes: Sequence[str], earlier: str) -> Cause:
    node = unready[0]
    lines = "".join(map(_read, sorted(logs.glob("node_*.log")))).splitlines()
    head = f"preflight: node {node}: "
    problem = next(
        (line.removeprefix(head) for line in reversed(lines) if line[: len(head)] == head), ""
    )
    reason = f"not ready: {problem}"
    if node not in nodes or set(unready) == set(nodes):
        return Cause("", f"all nodes are {reason}", False)
    if reason == earlier:
        return Cause("", f"{node} is {reason}; so was the node before it", False)
    return Cause(node, reason, True)


def _judge_first_to_fail(
    ended: Sequence[tuple[str, str]], nodes: Sequence[str], steps: int
) -> Cause:
    node, how = ended[0] if ended else ("", "srun does not say how")
    reason = f"{node or 'a task'} failed first ({how}), {max(0, steps)} steps after the job's start"
    return Cause(node if node in nodes else "", reason, steps > 0)


def _has_code(how: str, code: int) -> bool:
    return how.endswith(f"exit code {code}")


def _count_steps(run: Path, statuses: Sequence[RankStatus], began: float) -> int:
    """Since `began`, from the newest checkpoint of before on."""
    before = [
        int(folder.name.removeprefix("step_"))
        for folder in (run / "checkpoints").glob("step_*")
        if folder.name[5:].isdecimal() and folder.stat().st_mtime < began
    ]
    return max((s.steps_done for s in statuses), default=0) - max(before, default=0)


def _read(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.exists() else ""
