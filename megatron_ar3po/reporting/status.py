"""`ar3po status RUN`: where every rank of a run is, whom the others wait for, and which process owns the folder. From
RUN/status and RUN/owner.json, on any machine that sees the folder.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.distributed.rank_status import (
    SILENT_AFTER_S,
    WRITE_EVERY_S,
    RankStatus,
    look_again,
    read_statuses,
    stacks_file,
)
from megatron_ar3po.distributed.stragglers import (
    describe_slowest,
    describe_stragglers,
    find_stragglers,
    find_unknown,
)
from megatron_ar3po.distributed.watch_thread import STACKS_REQUEST
from megatron_ar3po.folder_owner import NAME as OWNER_NOTE
from megatron_ar3po.folder_owner import living_owner
from megatron_ar3po.reporting.node_logs import newest_job, node_lines
from megatron_ar3po.reporting.spans import spans
from megatron_ar3po.run.folder_format import check_not_newer

STACKS_WAIT_S = 4 * WRITE_EVERY_S
FRAMES_SHOWN = 5
_END_SHOWN = 60  # of the sentence with which a rank ended, in the table


def add_status_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "status",
        description="Where every rank is, and whom the others wait for. Exit code 1 when a rank has failed or is not "
        "heard of.",
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument(
        "--stacks",
        action="store_true",
        help="ask every rank for its stack, and show those that differ",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(command=status_command)


def status_command(arguments: argparse.Namespace) -> int:
    check_not_newer(arguments.run)
    folder = arguments.run / "status"
    statuses = read_statuses(folder)
    if not statuses:
        raise ValueError(_explain_no_status(arguments.run))
    marker = _find_marker(arguments.run, statuses)
    stacks: dict[int, str] = {}
    if arguments.stacks:  # first: who shows none in time is silent by then
        stacks = gather_stacks(folder, statuses)
        statuses = read_statuses(folder)
    if not marker:
        statuses = look_again(folder, statuses)
    now = time.time()
    owner = living_owner(arguments.run / OWNER_NOTE)
    if arguments.json:
        print(json.dumps(_as_json(statuses, now) | {"owner": asdict(owner) if owner else None}))
    else:
        lines = [*lines_of(statuses, now, marker=marker)]
        lines += _lines_of_its_nodes(arguments.run, statuses, now)
        lines += [f"the folder is owned by {owner.describe()}"] if owner is not None else []
        print("\n".join(lines))
    if arguments.stacks:
        print("\n".join(stack_lines(stacks, statuses, now)))
    if marker:
        return 0
    return int(any(s.is_silent(now) or s.end.startswith("failed") for s in statuses))


def _explain_no_status(run: Path) -> str:
    """Of a run that has not begun, or of no run."""
    if not run.is_dir():
        return f"{run} is no folder; name that of a run, such as runs/NAME."
    if (job := newest_job(run)) is None:
        return (
            f"{run / 'status'} holds no status of any rank, and {run / 'logs'} no log of a job; name the folder of a "
            "run that has started, or look at what its launcher printed."
        )
    lines = "".join(f"\n  {line}" for line in node_lines(job))
    return f"no rank of {run} has begun; what the nodes said last, in {job}:{lines}"


def _lines_of_its_nodes(run: Path, statuses: Sequence[RankStatus], now: float) -> Iterator[str]:
    """Where the ranks cannot tell: a job that began after the last of them had written, so that what is above is of an
    earlier one, and a run of which none writes any more."""
    job = newest_job(run)
    if job is None or marker_of(run):
        return
    where = f"{job.parent.name} {job.name}"
    if job.stat().st_mtime > max(s.written for s in statuses) + WRITE_EVERY_S:
        yield f"this is from before {where}, of which no rank has begun; its nodes said last:"
    elif all(s.is_silent(now) for s in statuses):
        first = min(statuses, key=lambda status: status.written)
        yield (
            f"no rank writes any more, {first.who} was the first: the job has ended (squeue, and its own output file), "
            f"or its nodes have lost this file system; in {where} they said last:"
        )
    else:
        return
    yield from (f"  {line}" for line in node_lines(job))


def marker_of(run: Path) -> str:
    """How the run ended, when it has: "DONE" or "STOPPED"."""
    return next((name for name in ("DONE", "STOPPED") if (run / name).exists()), "")


def _find_marker(run: Path, statuses: Sequence[RankStatus]) -> str:
    """ "" also where ranks have written long after it: of a run that goes on it stays until the start is over."""
    if not (marker := marker_of(run)):
        return ""
    marked = (run / marker).stat().st_mtime
    begun = [s for s in statuses if not s.end and s.written > marked + SILENT_AFTER_S]
    return "" if begun else marker


def _as_json(statuses: Sequence[RankStatus], now: float) -> dict[str, Any]:
    return {
        "ranks": [s.as_json() | {"age_s": round(s.age_s(now), 1)} for s in statuses],
        "awaited": [s.rank for s in find_stragglers(statuses, now)],
    }


def lines_of(statuses: Sequence[RankStatus], now: float, *, marker: str = "") -> Iterator[str]:
    """One line for all ranks that do the same, then the sentence that matters."""
    steps = max(s.steps_done for s in statuses)
    after = f"{steps} steps done" if steps >= 0 else "before its first step"
    yield f"{len(statuses)} of {statuses[0].world_size} ranks on {len({s.host for s in statuses})} nodes, {after}"
    late = find_stragglers(statuses, now)
    rows = [("ranks", "nodes", "is", "seconds", "")]
    for does, group in _group(statuses, lambda s: _describe(s, now)).items():
        rows.append(
            (
                spans([s.rank for s in group]),
                _hosts(group),
                does,
                f"{max(_duration_s(s, now) for s in group):.0f}",
                _mark(group, late, statuses),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)]
        yield "  ".join([*cells, row[3].rjust(widths[3]), row[4]]).rstrip()
    if marker or all(s.end == "ended" for s in statuses):
        yield f"the run is {marker or 'at its end'}"
    else:
        yield describe_stragglers(statuses, now)
        if slowest := describe_slowest(statuses):
            yield slowest


def _mark(
    group: Sequence[RankStatus], late: Sequence[RankStatus], statuses: Sequence[RankStatus]
) -> str:
    named, own = {s.rank for s in late}, {s.rank for s in group}
    if not named & own or all(s.end for s in group):
        return ""
    return "<- the others wait" if any(s.waits_for for s in statuses if s.rank not in own) else "<-"


def _group(
    statuses: Sequence[RankStatus], key: Callable[[RankStatus], str]
) -> dict[str, list[RankStatus]]:
    groups: dict[str, list[RankStatus]] = {}
    for status in statuses:
        groups.setdefault(key(status), []).append(status)
    return groups


def _describe(status: RankStatus, now: float) -> str:
    if status.end:
        return status.end if len(status.end) <= _END_SHOWN else f"{status.end[:_END_SHOWN]}..."
    if status.is_silent(now):
        return f"silent, last in {status.phase}"
    if status.waits_for:
        return f"{status.phase}, waiting for {status.waits_for}"
    calls = status.calls.partition(" (")[0]  # the sentence below has the rest
    return f"{status.phase}, {calls}" if calls else status.phase


def _duration_s(status: RankStatus, now: float) -> float:
    if status.end or status.is_silent(now):
        return status.age_s(now)
    return (status.waits_s if status.waits_for else status.phase_s) + status.age_s(now)


def _hosts(group: Sequence[RankStatus], most: int = 3) -> str:
    hosts = list(dict.fromkeys(s.host for s in group))
    more = f" and {len(hosts) - most} more" if len(hosts) > most else ""
    return ", ".join(hosts[:most]) + more


def gather_stacks(folder: Path, statuses: Sequence[RankStatus]) -> dict[int, str]:
    """Asks, waits a few seconds, reads what came. Of ranks that have ended nothing, for silent ones less long."""
    asked = time.time()
    wanted = {s.rank: s for s in statuses if not s.end}
    before = {rank: _version(stacks_file(folder, rank)) for rank in wanted}
    (folder / STACKS_REQUEST).touch()
    found: dict[int, str] = {}
    while len(found) < len(wanted) and (now := time.time()) < asked + STACKS_WAIT_S:
        others = [s for rank, s in wanted.items() if rank not in found]
        if now > asked + 1.5 * WRITE_EVERY_S and all(s.is_silent(now) for s in others):
            break
        time.sleep(0.2)
        for rank in wanted:
            file = stacks_file(folder, rank)
            if rank not in found and _version(file) != before[rank]:
                found[rank] = file.read_text("utf-8")
    return found


def _version(file: Path) -> tuple[int, int]:
    """Another one once it was written anew, whatever the clocks of this machine and of the file system say."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def main_thread_frames(dump: str) -> list[str]:
    """Of faulthandler's text, where more than one thread may stand: the main thread's innermost frames, this project's
    first of all. The main thread is the last one that faulthandler shows."""
    threads = re.split(r"\n\s*\n", dump.strip())
    frames = re.findall(r'File "([^"]*)", line (\d+) in (\S+)', threads[-1])
    mine = [i for i, (file, _, _) in enumerate(frames) if "megatron_ar3po" in file]
    shown = frames[: max(FRAMES_SHOWN, (mine[0] if mine else 0) + FRAMES_SHOWN)]
    return [f"{'/'.join(Path(file).parts[-2:])}:{line} {name}" for file, line, name in shown]


def stack_lines(
    stacks: dict[int, str], statuses: Sequence[RankStatus], now: float
) -> Iterator[str]:
    """Ranks with the same frames share one stack; those that have shown none come first, for they are the odd ones."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for rank, dump in stacks.items():
        groups.setdefault(tuple(main_thread_frames(dump)), []).append(rank)
    for status in statuses:
        if status.rank not in stacks and not status.end:
            yield ""
            yield f"no stack of {_describe_deaf(status, now)}"
    if unknown := find_unknown(statuses):
        yield ""
        many, have = ("s", "have") if len(unknown) > 1 else ("", "has")
        yield f"no stack of rank{many} {spans(unknown)}, which {have} never written"
    for frames, ranks in sorted(groups.items(), key=lambda item: len(item[1])):
        yield ""
        yield f"rank {spans(ranks)} is at" if len(ranks) == 1 else f"ranks {spans(ranks)} are at"
        yield from (f"    {frame}" for frame in frames)
    if statuses and all(s.end for s in statuses):
        yield "no rank runs any more that could show its stack"
    elif not stacks:
        yield f"no rank has shown its stack within {STACKS_WAIT_S:.0f} s"


def _describe_deaf(status: RankStatus, now: float) -> str:
    """It was asked, and has not shown its stack in time."""
    if status.is_silent(now):
        return status.describe(now)
    return f"{status.describe(now)}; py-spy dump --pid {status.pid} on {status.host} shows it from outside"
