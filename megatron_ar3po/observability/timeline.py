"""`Timeline`: where the seconds of a start and of each step go, as `time/NAME_s` of their rows in metrics.jsonl.

    with timeline.span("step"):                 time/step_s
        with timeline.span("rollout"):          time/rollout_s
            with timeline.span("ledger"):       time/rollout/ledger_s
            with timeline.sampling():           time/rollout/{http,server,verifier,slots,client}_s

A span is named after the spans around it; the phases of the loop have short names where they usually stand (`PLACES`).
What lies in a span and in none of its parts is the rest of it, which a report shows as unaccounted. `time/wall_s` is
what has passed since the row before, or since the process was created: every second is in one row.

Where `keep_events` was called, each span, request and verdict is kept with its begin and end too (`step_events`).

While responses are sampled many things happen at once, so each moment is given to the first of these that is under way:
a request, a verdict, a wait for a slot, and else this process's own work (`client`). Of a request's time `server` is
what the server itself says that it took, and `http` the rest: the way there and back, and the client's part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

Span = Callable[[str], AbstractContextManager[None]]
SamplingState = Literal["http", "verifier", "slots"]


# Its kind (span, http, served by a server as it says, or verifier), begin and end by the timeline's clock, the span or
# the id of the response, the server.
Event = tuple[str, float, float, str, str]

PLACES = {
    "step": "",
    "rollout": "step",
    "batch": "step",
    "train": "step",
    "old_logprobs": "train",
    "update": "train",
    "publish": "step",
    "evaluation": "",
    "checkpoint": "",
}
WALL = "wall"


def no_span(name: str) -> AbstractContextManager[None]:
    """Where nobody wants to know."""
    return nullcontext()


def parent_of(name: str) -> str:
    """
    >>> parent_of("update"), parent_of("rollout/ledger"), parent_of("rollout"), parent_of("start")
    ('train', 'rollout', 'step', '')
    """
    return PLACES.get(name) or name.rpartition("/")[0]


class Timeline:
    """Of one process; spans are for its main thread. A span costs two looks at the clock and a sum."""

    def __init__(
        self, *, age_s: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`age_s`: of the process, all of which is the start's."""
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._current = ""
        self._row_began = clock() - age_s
        self._states = [_State(self, name) for name in ("http", "verifier", "slots")]
        self._by_name = {state.name: state for state in self._states}
        self._client = _State(self, "client")
        self._last_change = clock()
        self._served: list[tuple[float, float]] = []
        self._events: list[Event] | None = None

    def keep_events(self) -> None:
        """From now on, for `take_events`."""
        self._events = []

    def take_events(self) -> list[Event]:
        """Since they were last taken; none where they are not kept."""
        if self._events is None:
            return []
        taken, self._events = self._events, []
        return taken

    def now(self) -> float:
        return self._clock()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        outer = self._current
        self._current = self._key(name)
        began = self._clock()
        try:
            yield
        finally:
            ended = self._clock()
            self._add(self._current, ended - began)
            self._keep("span", began, ended, self._current)
            self._current = outer

    def add(self, name: str, seconds: float) -> None:
        """As a span that has just ended inside the present one."""
        self._add(self._key(name), seconds)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Around an event loop in which requests and verdicts are under way (`during`)."""
        began = self._last_change = self._clock()
        for state in (*self._states, self._client):
            state.seconds = 0.0
        self._served.clear()
        try:
            yield
        finally:
            self._account()
            served_s = union_s(self._served, since=began)
            served_s = min(served_s, self._by_name["http"].seconds)
            self._by_name["http"].seconds -= served_s
            self.add("server", served_s)
            for state in (*self._states, self._client):
                self.add(state.name, state.seconds)

    def during(self, state: SamplingState, name: str = "") -> AbstractContextManager[None]:
        """A context manager around one of the many things that are under way. `name`: the response's id, where it is to
        be an event."""
        if self._events is None or not name:
            return self._by_name[state]  # which may be entered any number of times
        return _NamedState(self._by_name[state], name, self._events)

    def record_service(self, seconds: float, name: str = "", server: str = "") -> None:
        """A server has just answered, and says that it took so long."""
        now = self._clock()
        self._served.append((now - seconds, now))
        self._keep("served", now - seconds, now, name, server)

    def take(self) -> dict[str, float]:
        """Seconds by name since they were last taken, `WALL` among them; what is still going on comes in the next."""
        now = self._clock()
        taken, self._seconds = self._seconds, {}
        taken[WALL], self._row_began = now - self._row_began, now
        return taken

    def _keep(self, kind: str, began: float, ended: float, name: str, server: str = "") -> None:
        if self._events is not None:
            self._events.append((kind, began, ended, name, server))

    def _key(self, name: str) -> str:
        if PLACES.get(name) == self._current:
            return name
        return f"{self._current}/{name}" if self._current else name

    def _add(self, key: str, seconds: float) -> None:
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def _account(self) -> float:
        now = self._clock()
        state = next((state for state in self._states if state.count), self._client)
        state.seconds += now - self._last_change
        self._last_change = now
        return now


class _State:
    __slots__ = ("_timeline", "count", "name", "seconds")

    def __init__(self, timeline: Timeline, name: str) -> None:
        self._timeline = timeline
        self.name = name
        self.count = 0
        self.seconds = 0.0

    def enter(self) -> float:
        """What the clock says."""
        now = self._timeline._account()
        self.count += 1
        return now

    def leave(self) -> float:
        now = self._timeline._account()
        self.count -= 1
        return now

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()


class _NamedState:
    """One visit of a state, kept as an event."""

    __slots__ = ("_began", "_events", "_name", "_state")

    def __init__(self, state: _State, name: str, events: list[Event]) -> None:
        self._state, self._name, self._events = state, name, events

    def __enter__(self) -> None:
        self._began = self._state.enter()

    def __exit__(self, *_: object) -> None:
        ended = self._state.leave()
        self._events.append((self._state.name, self._began, ended, self._name, ""))


def union_s(intervals: Sequence[tuple[float, float]], *, since: float) -> float:
    """Seconds from `since` on that lie in at least one of them.

    >>> union_s([(0, 4), (3, 5), (7, 8)], since=1)
    5
    """
    total, reached = 0.0, since
    for begin, end in sorted(intervals):
        total += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return total
