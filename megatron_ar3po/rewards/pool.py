"""A pool of worker processes with hard limits for each item.

Promises: every submitted item gets exactly one grade; the grade of an item does not depend on the number of workers or
on its place; closing the pool, or the death of this process, ends all workers; an item that goes wrong never costs its
neighbours anything but time.

What goes wrong once is tried once more. What goes wrong twice is told apart by whose doing it was:

    ungradable   both times the item itself exhausted a worker: its time limit, its memory limit or its stack, the
                 second time alone in a fresh worker. Also where that ended the process by a signal of its own (SIGABRT,
                 SIGSEGV, SIGBUS), as C code dies that gets no memory.
    error        at least once something else failed: the grader raised, or its process was killed from outside, ended
                 by itself or wrote what cannot be read.

Each worker has a thread here that feeds it batches and reads one line per item. Batches make a crowd of items cheap; a
single item is sent alone and at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from megatron_ar3po.rewards.grade import Grade
from megatron_ar3po.rewards.worker_process import START_TIMEOUT_S, PoolSettings, WorkerProcess

MAX_BATCH = 64
MAX_BATCH_CHARS = 1_000_000
_CROWD = 16
_GRACE_S = 1.0  # after the worker's own limit, before it is killed
_MAX_FAILED_STARTS = 3
_MAX_TRIES = 2  # of one item


class VerifierPoolError(RuntimeError):
    """The workers cannot run at all; the message holds what they said."""


@dataclass
class PoolCounts:
    """What happened so far."""

    items: int = 0
    retries: int = 0
    ungradable: int = 0
    errors: int = 0
    killed: int = 0  # workers that did not heed their own limit
    deaths: int = 0  # workers that ended by themselves or from outside
    restarts: int = 0


@dataclass
class _Item:
    text: str
    ground_truth: str
    overrides: Mapping[str, Any]
    future: Future[Grade] = field(default_factory=Future)
    failures: list[Grade] = field(default_factory=list)
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

    def _return(self, items: Sequence[_Item], *, at_the_end: bool = False) -> None:
        with self._changed:
            why_not = self._broken or (self._is_closed and "the verifier pool was closed")
            if not why_not:
                if at_the_end:
                    self._queue.extend(items)
                else:
                    self._queue.extendleft(reversed(items))
                self._changed.notify_all()
                return
        for item in items:  # nobody would take them from the queue
            _give_up(item, VerifierPoolError(why_not))

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


def judge_failures(failures: Sequence[Grade]) -> Grade:
    """What an item is that went wrong every time: 'ungradable' where each time was its own doing, else 'error'.

    >>> slow, raised = Grade(status="ungradable", reason="slow"), Grade(status="error", reason="KeyError")
    >>> judge_failures([slow, slow]).reason, judge_failures([slow, raised]).reason
    ('slow, twice', 'slow, then KeyError')
    >>> judge_failures([slow, raised]).status
    'error'
    """
    first, last = failures
    is_own_doing = all(failure.status == "ungradable" for failure in failures)
    same = first.reason == last.reason
    return replace(
        last,
        status="ungradable" if is_own_doing else "error",
        reason=f"{last.reason}, twice" if same else f"{first.reason}, then {last.reason}",
    )


class _Feeder(threading.Thread):
    """One worker process and the thread that feeds it. The thread lives as long as the pool: the kernel ends the
    worker when the thread that started it ends."""

    def __init__(self, pool: VerifierPool, number: int) -> None:
        super().__init__(name=f"verifier-{number}", daemon=True)
        self._pool = pool
        self._settings = pool.settings
        self._worker = WorkerProcess(pool.settings)

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    def run(self) -> None:
        try:
            self._ensure_started()
            while (batch := self._pool._take()) is not None:
                if batch:
                    self._grade(batch)
        except VerifierPoolError as error:
            self._pool._break(str(error))
        except Exception as error:  # a fault of ours: whoever waits for a grade learns of it
            self._pool._break(f"the verifier's own code failed: {error!r}")
        finally:
            self.kill()

    def kill(self) -> None:
        self._worker.kill()

    # --- one batch

    def _grade(self, batch: list[_Item]) -> None:
        """Every item gets its grade, or goes back into the queue. One that exhausted the worker has its second chance
        at once, alone in a fresh one."""
        waiting = deque(batch)
        again: _Item | None = None
        try:
            self._ensure_started()
            self._worker.send([[item.text, item.ground_truth, item.overrides] for item in batch])
            while waiting:
                is_crowd = len(waiting) > _CROWD
                answer = self._worker.receive(
                    self._settings.timeout_s + _GRACE_S, is_crowd=is_crowd
                )
                item = waiting.popleft()
                is_done = self._settle(item, _grade_of(answer))
                if answer[0]:
                    again = None if is_done else item
                    self.kill()
                    break
                if not is_done:
                    self._pool._return([item], at_the_end=True)
        except TimeoutError:
            self.kill()
            self._pool.counts.killed += 1
            reason = f"not decided within {self._settings.timeout_s:g} s, nor did its worker heed the alarm"
            again = self._blame_first(waiting, Grade(status="ungradable", reason=reason))
        except (EOFError, OSError, ValueError) as error:  # ValueError: a line that is no JSON
            self._pool.counts.deaths += 1
            again = self._blame_first(waiting, self._worker.explain_death(error))
        except (
            Exception
        ) as error:  # no worker starts any more, or a fault of ours: nobody waits in vain
            for item in waiting:
                _give_up(item, error)
            raise
        if waiting:
            self._pool._return(list(waiting))
        if again is not None:
            self._grade([again])

    def _blame_first(self, waiting: deque[_Item], failure: Grade) -> _Item | None:
        """The worker ended at the first of these. Returns it if it is to be tried again."""
        if not waiting:
            return None
        item = waiting.popleft()
        return None if self._settle(item, failure) else item

    def _settle(self, item: _Item, grade: Grade) -> bool:
        """Whether this is the item's grade; False: it gets a second chance."""
        counts = self._pool.counts
        if grade.status in ("ungradable", "error"):
            item.failures.append(grade)
            if len(item.failures) < _MAX_TRIES:
                counts.retries += 1
                return False
            grade = judge_failures(item.failures)
        counts.items += 1
        counts.ungradable += grade.status == "ungradable"
        counts.errors += grade.status == "error"
        item.future.set_result(grade)
        return True

    # --- the process

    def _ensure_started(self) -> None:
        failures = []
        while self._worker.pid is None:
            if self._pool._is_closed:
                raise VerifierPoolError("the verifier pool was closed")
            if self._worker.was_started:
                self._pool.counts.restarts += 1
                self._pool.counts.deaths += not self._worker.was_ended
            said = self._worker.start()
            if said is None:
                self._pool._report_ready()
                return
            failures.append(said)
            if len(failures) >= _MAX_FAILED_STARTS:
                raise VerifierPoolError(
                    f"rewards.verifier={self._settings.grader}: a worker failed to start {len(failures)} times. "
                    f"It said:\n{said}"
                )
