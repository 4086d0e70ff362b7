"""The events of one step, of all ranks, in the Trace Event Format that Perfetto and Chrome read.

    rank 0 on node0          its spans, nested
    prompts of rank 0        a prompt's stages: from the first request to the last verdict
    requests of rank 0       each from its being sent to its answer, the way there and back included
    verdicts of rank 0
    server dp0.s0            the same requests, as long as the server says it took; and how many at once

What overlaps lies in lanes, each event in the first that is free: a lane that ends early, or a gap in all of them, is
where a machine waited.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from megatron_ar3po.observability.step_events import StepEvents

_DRAW = re.compile(r"s\d+\.p(\d+)\.(\d+)\.\d+")
_NUM_GROUPS = 4  # of a rank: its spans, prompts, requests, verdicts


class Slice(NamedTuple):
    """In microseconds since the trace begins."""

    began: int
    length: int
    name: str

    @property
    def ended(self) -> int:
        return self.began + self.length


Trace = dict[str, Any]


def make_trace(ranks: Sequence[StepEvents]) -> Trace:
    """The clocks of several hosts are taken as they are."""
    begin = min(one.began for one in ranks)
    events: list[dict[str, Any]] = []
    servers: dict[str, list[Slice]] = {}
    for one in ranks:
        kinds = slices_by_kind(one, begin, servers)
        group = one.rank * _NUM_GROUPS
        events += name_group(group, f"rank {one.rank} on {one.host}")
        events += (describe(s, group, 0) for s in kinds.get("span", ()))
        stages = stages_of_prompts([*kinds.get("http", ()), *kinds.get("verifier", ())])
        for number, (name, slices) in enumerate(
            (
                ("prompts", stages),
                ("requests", kinds.get("http", [])),
                ("verdicts", kinds.get("verifier", [])),
            ),
            start=1,
        ):
            if slices:
                events += name_group(group + number, f"{name} of rank {one.rank}")
                events += in_lanes(slices, group + number)
    first = (max(one.rank for one in ranks) + 1) * _NUM_GROUPS
    for number, (name, slices) in enumerate(sorted(servers.items()), start=first):
        events += name_group(number, f"server {name}")
        events += in_lanes(slices, number)
        events += counts(slices, number)
    about = {"step": ranks[0].step, "ranks": len(ranks)}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def slices_by_kind(
    one: StepEvents, begin: float, servers: dict[str, list[Slice]]
) -> dict[str, list[Slice]]:
    """What a server did goes to `servers`."""
    shift = round((one.began - begin) * 1e6)
    kinds: dict[str, list[Slice]] = {}
    for kind, began, length, name, server in one.events:
        there = servers.setdefault(server, []) if kind == "served" else kinds.setdefault(kind, [])
        there.append(Slice(began + shift, length, name))
    return kinds


def stages_of_prompts(slices: Iterable[Slice]) -> list[Slice]:
    """From the first request of a stage to its last verdict.

    >>> stages_of_prompts([Slice(0, 5, "s1.p7.1.0"), Slice(2, 9, "s1.p7.1.1"), Slice(11, 1, "s1.p7.1.1")])
    [Slice(began=0, length=12, name='prompt 7, stage 1')]
    """
    found: dict[str, tuple[int, int]] = {}
    for one in slices:
        if match := _DRAW.match(one.name):
            name = f"prompt {match[1]}, stage {match[2]}"
            began, ended = found.get(name, (one.began, one.ended))
            found[name] = (min(began, one.began), max(ended, one.ended))
    return [Slice(began, ended - began, name) for name, (began, ended) in found.items()]


def lanes_of(slices: Sequence[Slice]) -> Iterator[tuple[int, Slice]]:
    """Each in the first lane that is free, by begin.

    >>> [lane for lane, _ in lanes_of([Slice(0, 9, "a"), Slice(1, 2, "b"), Slice(3, 1, "c"), Slice(4, 9, "d")])]
    [0, 1, 1, 1]
    """
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # until when, which lane
    count = 0
    for one in sorted(slices):
        while busy and busy[0][0] <= one.began:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        heapq.heappush(busy, (one.ended, lane))
        yield lane, one


def in_lanes(slices: Sequence[Slice], group: int) -> Iterator[dict[str, Any]]:
    for lane, one in lanes_of(slices):
        yield describe(one, group, lane)


def describe(one: Slice, group: int, lane: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": group,
        "tid": lane,
        "ts": one.began,
        "dur": one.length,
        "name": one.name,
    }


def name_group(group: int, name: str) -> list[dict[str, Any]]:
    shown = {"name": "process_name", "args": {"name": name}}
    order = {"name": "process_sort_index", "args": {"sort_index": group}}
    return [{"ph": "M", "pid": group, **about} for about in (shown, order)]


def counts(slices: Sequence[Slice], group: int) -> Iterator[dict[str, Any]]:
    """How many are under way, wherever that changes."""
    changes: dict[int, int] = {}
    for one in slices:
        changes[one.began] = changes.get(one.began, 0) + 1
        changes[one.ended] = changes.get(one.ended, 0) - 1
    count = 0
    for at in sorted(changes):
        count += changes[at]
        yield {"ph": "C", "pid": group, "ts": at, "name": "at once", "args": {"requests": count}}
