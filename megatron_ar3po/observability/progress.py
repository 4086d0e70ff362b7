"""What a person sees while a run works: a progress bar on a terminal, one plain line a step otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


class RunProgress:
    """Rank 0 makes one; `step_done` after each step."""

    def __init__(
        self, total_steps: int, style: Literal["auto", "bar", "plain"], *, is_silent: bool = False
    ) -> None:
        self._total = total_steps
        self._is_silent = is_silent
        self._started = time.monotonic()
        self._first_step: int | None = None
        self._bar: Progress | None = None
        if not is_silent and (style == "bar" or (style == "auto" and sys.stderr.isatty())):
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[facts]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("train", total=total_steps, facts="")

    def start(self, step: int) -> None:
        self._started, self._first_step = time.monotonic(), step
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            self._bar.start()

    def step_done(self, step: int, row: Mapping[str, float]) -> None:
        if self._is_silent:
            return
        facts = step_facts(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        else:
            logger.info(
                "step %d/%d  %s  left %s",
                step,
                self._total,
                facts,
                _clock(self._seconds_left(step)),
            )

    def _seconds_left(self, step: int) -> float:
        done = step - (self._first_step or 0)
        return (time.monotonic() - self._started) / max(done, 1) * (self._total - step)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def step_facts(row: Mapping[str, float]) -> str:
    """The few numbers worth watching, absent ones left out."""
    shown = [
        ("reward", "reward/mean", "{:.3f}"),
        ("resp/prompt", "rollout/responses_per_prompt", "{:.2f}"),
        ("borrowed", "reuse/borrowed_groups", "{:.0f}"),
        ("pass@1", "eval/pass_at_1", "{:.3f}"),
        ("loss", "actor/loss", "{:+.4f}"),
        ("gnorm", "actor/grad_norm", "{:.3f}"),
        ("", "time/step_s", "{:.2f} s"),
    ]
    return "  ".join(
        f"{name} {form.format(row[key])}".strip() for name, key, form in shown if key in row
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
