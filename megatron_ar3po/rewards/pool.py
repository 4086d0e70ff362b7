"""A pool of worker processes with hard limits for each item.

Promises: every submitted item gets exactly one grade; an item that hangs costs its own verdict ('timeout') and one
worker, never its neighbours; a worker killed from outside costs nothing (its items are graded again, and only an item
at which workers die twice is an 'error'); the grade of an item does not depend on the number of workers or on its
place; closing the pool, or the death of this process, ends all workers.

Each worker has a thread here that feeds it batches and reads one line per item. Batches make a crowd of items cheap; a
single item is sent alone and at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ar3po.rewards.grade import Grade

MAX_BATCH = 64
MAX_BATCH_CHARS = 1_000_000
START_TIMEOUT_S = 120.0
_CROWD = 16
_PAUSE_S = 0.002
_GRACE_S = 1.0  # after the worker's own limit, before it is killed
_MAX_FAILED_STARTS = 3
_MAX_DEATHS = 2  # of workers at one item


class VerifierPoolError(RuntimeError):
    """The workers cannot run at all; the message holds what they said."""


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """What the workers are to do. `grader` is math, check or an import path; `options` and `rewards` are for them."""

    grader: str = "math"
    options: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)
    num_workers: int = 1
    timeout_s: float = 5.0
    memory_bytes: int = 1024**3


@dataclass
class PoolCounts:
    """What happened so far."""

    items: int = 0
    timeouts: int = 0
    killed: int = 0  # workers that did not heed their own limit
    deaths: int = 0  # workers that ended by themselves or from outside
    restarts: int = 0


@dataclass
class _Item:
    text: str
    ground_truth: str
    overrides: Mapping[str, Any]
    future: Future[Grade] = field(default_factory=Future)
    deaths: int = 0
    is_running: bool = False


class VerifierPool:
    """`submit` from any thread; `grade_all` for a whole list in order."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.counts = PoolCounts()
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._broken: str | None = None
        self._num_ready = 0
        self._feeders = [_Feeder(self, number) for number in range(settings.num_workers)]
        for feeder in self._feeders:
            feeder.start()

    def submit(self, text: str, ground_truth: str, **overrides: Any) -> Future[Grade]:
        """Grade one item; `overrides` replace single `GradingOptions` for it."""
        item = _Item(text, ground_truth, overrides)
        with self._changed:
            self._refuse_if_unusable()
            self._queue.append(item)
            self._changed.notify()
        return item.future

    def submit_all(self, pairs: Sequence[tuple[str, str]], **overrides: Any) -> list[Future[Grade]]:
        items = [_Item(text, ground_truth, overrides) for text, ground_truth in pairs]
        with self._changed:
            self._refuse_if_unusable()
            self._queue.extend(items)
            self._changed.notify_all()
        return [item.future for item in items]

    def grade_all(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return [future.result() for future in self.submit_all(pairs)]

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until one worker can grade; raises with its words when none can."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._num_ready or self._broken or self._is_closed, timeout_s
            )
            self._refuse_if_unusable()
            if not self._num_ready:
                raise VerifierPoolError(f"no verifier worker was ready within {timeout_s:g} s")

    @property
    def worker_pids(self) -> list[int]:
        return [pid for feeder in self._feeders if (pid := feeder.pid) is not None]

    def close(self) -> None:
        """End all workers; items that have no grade yet are cancelled."""
        with self._changed:
            self._is_closed = True
            waiting, self._queue = list(self._queue), deque()
            self._changed.notify_all()
        for item in waiting:
            _give_up(item, VerifierPoolError("the verifier pool was closed"))
        for feeder in self._feeders:
            feeder.kill()
        for feeder in self._feeders:
            feeder.join(timeout=10)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- for the feeders

    def _refuse_if_unusable(self) -> None:
        if self._broken:
            raise VerifierPoolError(self._broken)
        if self._is_closed:
            raise VerifierPoolError("the verifier pool is closed")

    def _take(self) -> list[_Item] | None:
        """The next items, fairly shared; None when the pool is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closed or self._broken)
            if self._is_closed or self._broken:
                return None
            share = min(MAX_BATCH, -(-len(self._queue) // self.settings.num_workers))
            batch: list[_Item] = []
            num_chars = 0
            while self._queue and len(batch) < share and num_chars < MAX_BATCH_CHARS:
                item = self._queue.popleft()
                if item.is_running or item.future.set_running_or_notify_cancel():
                    item.is_running = True
                    batch.append(item)
                    num_chars += len(item.text) + len(item.ground_truth)
            return batch

    def _return(self, items: Sequence[_Item]) -> None:
        with self._changed:
            if not self._is_closed:
                self._queue.extendleft(reversed(items))
                self._changed.notify_all()
                return
        for item in items:
            _give_up(item, VerifierPoolError("the verifier pool was closed"))

    def _report_ready(self) -> None:
        with self._changed:
            self._num_ready += 1
            self._changed.notify_all()

    def _break(self, message: str) -> None:
        with self._changed:
            self._broken = message
            waiting, self._queue = list(self._queue), deque()
            self._changed.notify_all()
        for item in waiting:
            _give_up(item, VerifierPoolError(message))


def _give_up(item: _Item, error: Exception) -> None:
    if item.is_running or item.future.set_running_or_notify_cancel():
        item.future.set_exception(error)


def _grade_of(answer: list[Any]) -> Grade:
    """What the worker wrote in one line."""
    _, status, extracted, reason, reward, is_marked, elapsed_s, tried = answer
    return Grade(
        status=status,
        extracted=extracted,
        reason=reason,
        reward=reward,
        is_marked=is_marked,
        elapsed_s=elapsed_s,
        tried=tuple(tried),
    )


class _Feeder(threading.Thread):
    """One worker process and the thread that feeds it. The thread lives as long as the pool: the kernel ends the
    worker when the thread that started it ends."""

    def __init__(self, pool: VerifierPool, number: int) -> None:
        super().__init__(name=f"verifier-{number}", daemon=True)
        self._pool = pool
        self._settings = pool.settings
        self._process: subprocess.Popen[bytes] | None = None
        self._was_ended = False  # by us, or its death is counted already
        self._received = b""
        self._readable = select.poll()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self) -> None:
        try:
            self._ensure_started()
            while (batch := self._pool._take()) is not None:
                if batch:
                    self._grade(batch)
        except VerifierPoolError as error:
            self._pool._break(str(error))
        finally:
            self.kill()

    def kill(self) -> None:
        process = self._process
        if process is None:
            return
        self._was_ended = True
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and threading.current_thread() is self:
                with contextlib.suppress(OSError):
                    pipe.close()

    # --- one batch

    def _grade(self, batch: list[_Item]) -> None:
        waiting = deque(batch)
        try:
            self._ensure_started()
            self._send([[item.text, item.ground_truth, item.overrides] for item in batch])
            while waiting:
                is_crowd = len(waiting) > _CROWD
                answer = self._receive(self._settings.timeout_s + _GRACE_S, is_crowd=is_crowd)
                self._finish(waiting.popleft(), _grade_of(answer))
                if answer[0]:
                    self.kill()
                    break
        except TimeoutError:
            self.kill()
            self._pool.counts.killed += 1
            self._finish(
                waiting.popleft(),
                Grade(status="timeout", reason="the worker did not answer and was killed"),
            )
        except (EOFError, OSError):
            self._pool.counts.deaths += 1
            self.kill()
            self._blame(waiting)
        except VerifierPoolError as error:
            for item in waiting:
                _give_up(item, error)
            raise
        if waiting:
            self._pool._return(list(waiting))

    def _blame(self, waiting: deque[_Item]) -> None:
        """The worker died at the first of these; once may be an accident from outside."""
        if not waiting:
            return
        waiting[0].deaths += 1
        if waiting[0].deaths >= _MAX_DEATHS:
            self._finish(
                waiting.popleft(),
                Grade(status="error", reason="the worker died at this item, twice"),
            )

    def _finish(self, item: _Item, grade: Grade) -> None:
        counts = self._pool.counts
        counts.items += 1
        counts.timeouts += grade.status == "timeout"
        item.future.set_result(grade)

    # --- the process

    def _ensure_started(self) -> None:
        failures = []
        while self._process is None or self._process.poll() is not None:
            if self._pool._is_closed:
                raise VerifierPoolError("the verifier pool was closed")
            if self._process is not None:
                self._pool.counts.restarts += 1
                self._pool.counts.deaths += not self._was_ended
            said = self._start()
            if said is None:
                self._pool._report_ready()
                return
            failures.append(said)
            if len(failures) >= _MAX_FAILED_STARTS:
                raise VerifierPoolError(
                    f"rewards.verifier={self._settings.grader}: a worker failed to start {len(failures)} times. "
                    f"It said:\n{said}"
                )

    def _start(self) -> str | None:
        """None when the worker is ready, else the end of what it wrote."""
        settings = {
            "grader": self._settings.grader,
            "options": self._settings.options,
            "rewards": self._settings.rewards,
            "timeout_s": self._settings.timeout_s,
            "memory_bytes": self._settings.memory_bytes,
            "parent": os.getpid(),
        }
        package_root = str(Path(__file__).resolve().parents[2])
        search_path = [package_root, *(entry for entry in sys.path if entry)]
        with tempfile.TemporaryFile() as words:
            self._received, self._was_ended = b"", False
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megatron_ar3po.rewards.worker", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path))},
            )
            assert self._process.stdin is not None and self._process.stdout is not None
            self._readable = select.poll()
            self._readable.register(self._process.stdout.fileno(), select.POLLIN)
            os.set_blocking(self._process.stdin.fileno(), False)
            try:
                self._receive(START_TIMEOUT_S)
                return None
            except (EOFError, TimeoutError, OSError) as error:
                self.kill()
                words.seek(0, os.SEEK_END)
                words.seek(max(0, words.tell() - 2000))
                return (
                    words.read().decode(errors="replace").strip()
                    or f"nothing ({type(error).__name__})"
                )

    def _send(self, items: list[list[Any]]) -> None:
        """Write a batch; a worker that does not take it in time is as good as dead."""
        assert self._process is not None and self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        data = memoryview(json.dumps(items).encode() + b"\n")
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        deadline = time.monotonic() + START_TIMEOUT_S
        while data:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise EOFError("the worker does not read")
            data = data[os.write(descriptor, data) :]

    def _receive(self, timeout_s: float, *, is_crowd: bool = False) -> Any:
        """The next line of the worker. In a crowd of items nobody waits for this one: let a few lines come together,
        waking up for each would cost more than reading it."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._received:
            if not self._readable.poll(timeout_s * 1000):
                raise TimeoutError
            if is_crowd:
                time.sleep(_PAUSE_S)
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)
