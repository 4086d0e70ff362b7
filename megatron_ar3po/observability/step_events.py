"""RUN/trace/step_00012.rank0000.json: when each span, request and verdict of a step began and ended on one rank, for
`ar3po trace`. Of the newest steps alone, unless some are to be kept for good: each rank removes its own.

    {"step": 12, "rank": 0, "host": "node0", "began": 1764432000.25, "events": [[kind, begin, us, name, server], ...]}

`us` is how long it took. `began` is the wall clock at the first event's begin; begins are microseconds from there.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from megatron_ar3po.observability.timeline import Event, Timeline

logger = logging.getLogger(__name__)

TRACE_FOLDER = "trace"  # in a run's folder
_US = 1e6


class StepEvents(NamedTuple):
    """What one rank's file holds."""

    step: int
    rank: int
    host: str
    began: float
    events: list[tuple[str, int, int, str, str]]


class EventRecorder:
    """Writes this rank's events, step by step."""

    def __init__(
        self,
        folder: Path,
        timeline: Timeline,
        *,
        rank: int,
        last_steps: int,
        every_steps: int = 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: RUN/trace. With neither of the two nothing is kept or written."""
        self._folder = folder
        self._timeline = timeline
        self._rank = rank
        self._last_steps, self._every_steps = last_steps, every_steps
        self._wall_clock = wall_clock
        self._is_kept = bool(last_steps or every_steps)
        if self._is_kept:
            timeline.keep_events()

    def write(self, step: int) -> None:
        events = self._timeline.take_events()
        if not events or not self._is_kept:
            return
        try:
            if self._last_steps or self._stays(step):
                self._folder.mkdir(parents=True, exist_ok=True)
                path = event_file(self._folder, step, self._rank)
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(self._encode(step, events))
                temporary.replace(path)
            self._remove(step - max(1, self._last_steps))
        except OSError as error:  # a run is worth more than its trace
            self._is_kept = False
            logger.warning(
                "%s cannot be written (%s): no step is traced any more", self._folder, error
            )

    def _encode(self, step: int, events: Sequence[Event]) -> bytes:
        kinds, began, ended, names, servers = zip(*events, strict=True)
        first = min(began)
        begins = np.rint((np.array(began) - first) * _US).astype(np.int64)
        ends = np.rint((np.array(ended) - first) * _US).astype(np.int64)
        lengths = (ends - begins).tolist()
        return orjson.dumps(
            {
                "step": step,
                "rank": self._rank,
                "host": socket.gethostname(),
                "began": self._wall_clock() - (self._timeline.now() - first),
                "events": list(zip(kinds, begins.tolist(), lengths, names, servers, strict=True)),
            }
        )

    def _remove(self, step: int) -> None:
        if step >= 0 and not self._stays(step):
            event_file(self._folder, step, self._rank).unlink(missing_ok=True)

    def _stays(self, step: int) -> bool:
        return self._every_steps > 0 and step % self._every_steps == 0


def event_file(folder: Path, step: int, rank: int) -> Path:
    return folder / f"step_{step:05d}.rank{rank:04d}.json"


def drop_events_after(folder: Path, step: int) -> None:
    """A run resumed from `step` writes the later ones anew, perhaps on fewer ranks: what others have left of them would
    stand beside it."""
    for later in (there for there in traced_steps(folder) if there > step):
        for path in folder.glob(f"step_{later:05d}.rank*.json"):
            path.unlink(missing_ok=True)


def read_events(folder: Path, step: int) -> list[StepEvents]:
    """Of all ranks. Raises ValueError where there is none, and for a file that is not whole."""
    paths = sorted(folder.glob(f"step_{step:05d}.rank*.json"))
    if not paths:
        raise ValueError(_explain_missing(folder, step))
    return [_read(path) for path in paths]


def traced_steps(folder: Path) -> list[int]:
    return sorted(
        {int(path.name[5:].partition(".")[0]) for path in folder.glob("step_*.rank*.json")}
    )


def _read(path: Path) -> StepEvents:
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        events = [(k, int(b), int(d), n, s) for k, b, d, n, s in content.pop("events")]
        return StepEvents(**content, events=events)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no record of a step ({error}): it was edited or the disk is damaged. Remove it "
            "to see the other ranks."
        ) from error


def _explain_missing(folder: Path, step: int) -> str:
    there = traced_steps(folder)
    if not folder.parent.is_dir():
        return f"{folder.parent} is no folder; name a run's folder, such as runs/NAME."
    if not there:
        return (
            f"{folder} holds the events of no step: the run has not ended its first step, was started with "
            "observability.trace_last_steps=0, or by a version that kept none."
        )
    return (
        f"{folder} does not hold the events of step {step}, but of {', '.join(map(str, there))}; "
        "observability.trace_last_steps says how many steps stay, observability.trace_every_steps which stay for good."
    )
