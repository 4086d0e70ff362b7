"""`ar3po trace RUN STEP`: one step as a trace for Perfetto or Chrome, and in a few lines where it waited."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.observability.step_events import (
    TRACE_FOLDER,
    StepEvents,
    read_events,
    traced_steps,
)
from megatron_ar3po.observability.timeline import union_s
from megatron_ar3po.reporting.chrome_trace import Slice, make_trace, slices_by_kind
from megatron_ar3po.run.folder_format import check_not_newer

_ABOUT = """\
One step of a run as a trace: every rank, server, prompt, stage, request and verdict, to see who waited for whom. Open
the file at https://ui.perfetto.dev or in chrome://tracing; it stays on your machine. A run keeps the events of its
newest steps (observability.trace_last_steps).

  ar3po trace runs/NAME                 the newest step that is there
  ar3po trace runs/NAME 12 --out step12.json
"""


def add_trace_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "trace", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=parse_path, metavar="RUN", help="a run's folder, such as runs/NAME"
    )
    parser.add_argument("step", type=int, nargs="?", metavar="STEP", help="default: the newest")
    parser.add_argument(
        "--out", type=parse_path, metavar="FILE", help="default: trace_STEP.json in this folder"
    )
    parser.set_defaults(command=trace_command)


def trace_command(arguments: argparse.Namespace) -> int:
    check_not_newer(arguments.run)
    folder = arguments.run / TRACE_FOLDER
    step = arguments.step
    if step is None:
        step = max(traced_steps(folder), default=0)
    ranks = read_events(folder, step)
    out: Path = arguments.out or Path(f"trace_{step:05d}.json")
    out.write_bytes(orjson.dumps(make_trace(ranks)))
    for line in describe_waits(ranks):
        print(line)
    print(f"written: {out} (open it at https://ui.perfetto.dev or in chrome://tracing)")
    return 0


def describe_waits(ranks: Sequence[StepEvents]) -> Iterator[str]:
    """Of each server, while prompts were rolled out: for how much of the time it had a request, and how many on the
    mean."""
    begin = min(one.began for one in ranks)
    servers: dict[str, list[Slice]] = {}
    spans = [s for one in ranks for s in slices_by_kind(one, begin, servers).get("span", ())]
    rollouts = [s for s in spans if s.name == "rollout"]
    yield f"step {ranks[0].step}: {len(ranks)} ranks, {len(servers)} servers"
    if not rollouts:
        return
    began, ended = min(s.began for s in rollouts), max(s.ended for s in rollouts)
    for name, slices in sorted(servers.items()):
        within = [
            (max(began, s.began), min(ended, s.ended))
            for s in slices
            if s.ended > began and s.began < ended
        ]
        busy = union_s(within, since=began) / (ended - began)
        mean = sum(end - start for start, end in within) / (ended - began)
        last = max((end for _, end in within), default=began)
        yield (
            f"server {name}: {len(within)} requests in {(ended - began) / 1e6:.2f} s of rollout, one or more for "
            f"{busy:.0%} of it, {mean:.1f} at once on the mean; the last ended {(ended - last) / 1e6:.2f} s before it"
        )
