"""Progress of a tool: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]  # (done so far, a fact worth reading)


@contextmanager
def task_progress(name: str, total: int, every_s: float = 10.0) -> Iterator[Advance]:
    if not sys.stdout.isatty():
        yield _plain(name, total, every_s)
        return
    columns = (
        TextColumn(name),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fact]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=total, fact="")
        yield lambda done, fact="": bar.update(task, completed=done, fact=fact)


def _plain(name: str, total: int, every_s: float) -> Advance:
    started = told = time.monotonic()

    def advance(done: int, fact: str = "") -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < every_s and done < total:
            return
        told = now
        left = (now - started) / max(done, 1) * (total - done)
        print(f"{name} {done}/{total}  {fact}  left {left:.0f} s", flush=True)

    return advance
