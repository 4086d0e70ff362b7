"""What a person sees while a run works: a progress bar on a terminal, one plain line a step otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megatron_ar3po.observability.waiting import telling

logger = logging.getLogger(__name__)

# What moves while a policy learns, the first first: a narrow terminal shows no more. The loss is not among them: with
# advantages that add up to nothing and one update a batch it is 0 by construction.
_SHOWN = (
    ("reward", "reward/mean", "{:.3f}"),
    ("pass@1", "eval/pass_at_1", "{:.3f}"),
    ("resp/prompt", "rollout/responses_per_prompt", "{:.2f}"),
    ("entropy", "actor/entropy", "{:.3f}"),
    ("clip", "actor/clip_frac", "{:.1%}"),
    ("borrowed", "reuse/borrowed_groups", "{:.0f}"),
    ("gnorm", "actor/grad_norm", "{:.3f}"),
    ("", "time/step_s", "{:.2f} s"),
)


class RunProgress:
    """Rank 0 makes one; `step_done` after each step."""

    def __init__(
        self,
        total_steps: int,
        style: Literal["auto", "bar", "plain"],
        *,
        is_silent: bool = False,
        console: Console | None = None,
    ) -> None:
        self._total = total_steps
        self._is_silent = is_silent
        self._started = time.monotonic()
        self._first_step: int | None = None
        self._facts = ""
        self._bar: Progress | None = None
        if not is_silent and (style == "bar" or (style == "auto" and sys.stderr.isatty())):
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
                console=console or Console(stderr=True),
            )
            self._task = self._bar.add_task("train", total=total_steps, facts="")

    def start(self, step: int) -> None:
        self._started, self._first_step = time.monotonic(), step
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            self._bar.start()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What is no step, as in "evaluating": the bar says so while it lasts, the log how long it took."""
        if self._is_silent:
            yield
        elif self._bar is None:
            with telling(what, logger.info):
                yield
        else:
            self._bar.update(self._task, facts=f"{what} ...  {self._facts}")
            try:
                yield
            finally:
                self._bar.update(self._task, facts=self._facts)

    def step_done(self, step: int, row: Mapping[str, float]) -> None:
        if self._is_silent:
            return
        self._facts = step_facts(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=self._facts)
        else:
            logger.info(
                "step %d/%d  %s  left %s",
                step,
                self._total,
                self._facts,
                _clock(self._seconds_left(step)),
            )

    def _seconds_left(self, step: int) -> float:
        done = step - (self._first_step or 0)
        return (time.monotonic() - self._started) / max(done, 1) * (self._total - step)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def step_facts(row: Mapping[str, float]) -> str:
    """The few numbers worth watching, absent ones left out.

    >>> step_facts({"reward/mean": 0.25, "actor/loss": 0.0, "actor/clip_frac": 0.0125, "time/step_s": 1.5})
    'reward 0.250  clip 1.2%  1.50 s'
    """
    return "  ".join(
        f"{name} {form.format(row[key])}".strip()
        for name, key, form in _SHOWN
        if row.get(key) is not None
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
