"""`MetricSinks`: the places that show a run's metrics beside metrics.jsonl (W&B, MLflow, TensorBoard), several at once.

Each has a thread of its own, which reads metrics.jsonl as it grows and hands on what is new: a place has the numbers of
the file, the run never waits for one, and one that does not answer takes no memory. One that fails is tried again
later and says so once. RUN/sinks.json keeps how far each has come and under which id, so that a resumed run goes on
there, and what a place has missed is sent then.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ar3po.interfaces import MetricSink
from megatron_ar3po.observability.row_tail import RowTail

logger = logging.getLogger(__name__)

NOTES = "sinks.json"
CLOSE_LIMIT_S = 60.0
_FIRST_RETRY_S, _LONGEST_RETRY_S = 15.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """One that the config asks for. `open`: takes the id it had before, or "", and the first step that it gets."""

    name: str  # as in the log
    where: str  # a project, an address: with another one it begins anew
    open: Callable[[str, int], MetricSink]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkNote:
    """How far one has come."""

    where: str = ""
    run_id: str = ""
    sent: int = -1  # the last step that it has


class SinkNotes:
    """RUN/sinks.json, for all threads of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._notes = _read_notes(path)

    def note_of(self, kind: SinkKind) -> SinkNote:
        with self._lock:
            note = self._notes.get(kind.name)
        return note if note and note.where == kind.where else SinkNote(where=kind.where)

    def put(self, kind: SinkKind, note: SinkNote) -> None:
        with self._lock:
            self._notes[kind.name] = note
            content = {name: asdict(note) for name, note in sorted(self._notes.items())}
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            temporary.replace(self.path)


def _read_notes(path: Path) -> dict[str, SinkNote]:
    if not path.is_file():
        return {}
    try:
        return {
            name: SinkNote(**note) for name, note in json.loads(path.read_text("utf-8")).items()
        }
    except (ValueError, TypeError, AttributeError) as error:  # a view's note ends no run
        logger.warning(
            "%s cannot be read (%s): the run begins anew in the places that show its metrics",
            path,
            error,
        )
        return {}


class MetricSinks:
    """Of the first rank. `close` waits a limited time for what is under way."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[SinkKind] = (),
        *,
        last_step: int = -1,
        first_retry_s: float = _FIRST_RETRY_S,
        close_limit_s: float = CLOSE_LIMIT_S,
    ) -> None:
        """`last_step`: at which the run goes on. What was sent of later ones is sent anew, as they are done again."""
        self._threads: list[_SinkThread] = []
        self._close_limit_s = close_limit_s
        if kinds:
            notes = SinkNotes(folder / NOTES)
            self._threads = [
                _SinkThread(kind, notes, folder / "metrics.jsonl", last_step, first_retry_s)
                for kind in kinds
            ]

    def notice_a_row(self) -> None:
        """metrics.jsonl has grown. The first time it is the run's own from its first row on: threads begin then."""
        for thread in self._threads:
            thread.wake()

    def close(self, *, is_done: bool) -> None:
        for thread in self._threads:
            thread.begin_to_close(is_done=is_done)
        end = time.monotonic() + self._close_limit_s
        for thread in self._threads:
            thread.wait_until_closed(end)


class _SinkThread:
    def __init__(
        self, kind: SinkKind, notes: SinkNotes, path: Path, last_step: int, first_retry_s: float
    ) -> None:
        self._kind = kind
        self._notes = notes
        note = notes.note_of(kind)
        self._note = replace(note, sent=min(note.sent, last_step))
        self._tail = RowTail(path)
        self._pending: deque[Mapping[str, Any]] = deque()
        self._sink: MetricSink | None = None
        self._something_new = threading.Event()
        self._closing = threading.Event()
        self._is_done = False
        self._is_told = False
        self._first_retry_s = first_retry_s
        self._thread = threading.Thread(target=self._work, name=f"sink-{kind.name}", daemon=True)

    def wake(self) -> None:
        self._something_new.set()
        if self._thread.ident is None:
            self._thread.start()

    def begin_to_close(self, *, is_done: bool) -> None:
        self._is_done = is_done
        self._closing.set()
        self._something_new.set()

    def wait_until_closed(self, end: float) -> None:
        if self._thread.ident is None:  # no row was ever written
            return
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            logger.warning(
                "%s (%s) has not taken all rows in time; metrics.jsonl has them, and a resume sends them",
                self._kind.name,
                self._kind.where,
            )

    def _work(self) -> None:
        retry_s = self._first_retry_s
        while True:
            self._something_new.clear()
            is_last = self._closing.is_set()
            try:
                self._send()
                retry_s = self._first_retry_s
                if is_last:
                    self._close_sink()
            except (
                Exception
            ) as error:  # of a library, a network, a disk: a view fails, and not the run
                self._tell(error)
                self._let_go()
                if not is_last:
                    self._closing.wait(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                    self._something_new.set()
            if is_last:
                return
            self._something_new.wait()

    def _send(self) -> None:
        num_damaged = len(self._tail.damaged)
        self._pending += [row for row in self._tail.read() if row["step"] > self._note.sent]
        for sentence in self._tail.damaged[num_damaged:]:
            logger.warning("%s does not get a row: %s", self._kind.name, sentence)
        if not self._pending:
            return
        if self._sink is None:
            self._sink = self._kind.open(self._note.run_id, self._note.sent + 1)
            self._note = replace(self._note, run_id=self._sink.run_id)
        try:
            while self._pending:
                row = self._pending[0]
                self._sink.write(row["step"], numbers_of(row))
                self._note = replace(self._note, sent=row["step"])
                self._pending.popleft()
        finally:
            self._notes.put(self._kind, self._note)
        if self._is_told:
            self._is_told = False
            logger.info("%s (%s) has all rows again", self._kind.name, self._kind.where)

    def _close_sink(self) -> None:
        if self._sink is not None:
            self._sink.close(is_done=self._is_done)

    def _let_go(self) -> None:
        """What is left of one that failed; the next try opens another under the same id."""
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close(is_done=False)
            except Exception as error:  # it has failed already, and that was told
                logger.debug("%s: %s", self._kind.name, error)

    def _tell(self, error: Exception) -> None:
        if not self._is_told:
            self._is_told = True
            logger.warning(
                "%s (%s) does not take the metrics: %s. The run goes on; metrics.jsonl has the same numbers, and it is "
                "tried again, at the latest by a resume.",
                self._kind.name,
                self._kind.where,
                (str(error).strip() or type(error).__name__)[:500],
            )


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Of a row of metrics.jsonl, without its step and what was not a number.

    >>> numbers_of({"step": 3, "reward/mean": 0.5, "reuse/hit_frac": None})
    {'reward/mean': 0.5}
    """
    return {name: value for name, value in row.items() if name != "step" and value is not None}
