"""Runs an experiment: one `ar3po train` after the other, seed by seed so that pairs are whole early.

    DIR/runs/VARIANT-sSEED/                  the run, as any other
    DIR/runs/VARIANT-sSEED/comparison.json   written when it is finished: with which words
    DIR/logs/VARIANT-sSEED.log               what it said

A finished run is not repeated; one that was cut short begins anew. With a budget of responses a run is asked to stop
(AR3PO_STOP_FILE) once an evaluation at or beyond it stands in its metrics; what it does until it has stopped is left
out of the figures. A run beyond its time limit is killed with all it started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from megatron_ar3po.comparison.experiment import Experiment, Variant
from megatron_ar3po.observability.metrics import read_rows

_POLL_S = 0.5
_GRACE_S = 60.0  # from the request to stop to the end of the process


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that did not end well, and why, in one line."""

    run: str
    reason: str


def run_name(variant: Variant, seed: int) -> str:
    return f"{variant.name}-s{seed}"


def metrics_path(out: Path, variant: Variant, seed: int) -> Path:
    return out / "runs" / run_name(variant, seed) / "metrics.jsonl"


def is_finished(experiment: Experiment, out: Path, variant: Variant, seed: int) -> bool:
    """Raises ValueError when a finished run in `out` was made with other words."""
    name = run_name(variant, seed)
    path = out / "runs" / name / "comparison.json"
    if not path.is_file():
        return False
    words, expected = json.loads(path.read_text())["words"], _identity(experiment, variant, seed)
    if words != expected:
        differing = sorted(set(words) ^ set(expected))
        raise ValueError(
            f"{path.parent} was finished with other options ({', '.join(differing)}); a comparison does not mix them. "
            "Choose another --out."
        )
    return True


def run_all(experiment: Experiment, out: Path, *, is_quiet: bool = False) -> list[Failure]:
    """Trains what `out` does not hold yet. A failed run does not end the others; it is in the answer."""
    todo = [(variant, seed) for seed in experiment.seeds for variant in experiment.variants]
    failures: list[Failure] = []
    bar = Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True),
        disable=is_quiet,
    )
    with bar:
        task = bar.add_task("runs", total=len(todo), facts="")
        for variant, seed in todo:
            if not is_finished(experiment, out, variant, seed):
                bar.update(task, facts=run_name(variant, seed))
                reason = _run_one(experiment, out, variant, seed)
                if reason:
                    failures.append(Failure(run=run_name(variant, seed), reason=reason))
            bar.advance(task)
    return failures


def _run_one(experiment: Experiment, out: Path, variant: Variant, seed: int) -> str:
    """Why the run is of no use; empty when it is finished."""
    name = run_name(variant, seed)
    folder, stop = out / "runs" / name, out / "logs" / f"{name}.stop"
    if folder.exists():
        shutil.rmtree(folder)  # ours, and without its mark: it was cut short
    stop.parent.mkdir(parents=True, exist_ok=True)
    stop.unlink(missing_ok=True)
    words = [*experiment.words_of(variant, seed), f"run.dir={folder}", f"run.name={name}"]
    log = out / "logs" / f"{name}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "megatron_ar3po.train", str(experiment.config), *words],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "AR3PO_STOP_FILE": str(stop)},
            start_new_session=True,
        )
        try:
            reason = _watched(process, folder / "metrics.jsonl", stop, experiment)
        finally:
            _end(process)
            stop.unlink(missing_ok=True)
    if reason:
        return f"{reason}; its log is {log}"
    mark = {"words": _identity(experiment, variant, seed)}
    (folder / "comparison.json").write_text(json.dumps(mark, indent=1) + "\n")
    return ""


def _watched(
    process: subprocess.Popen[bytes], metrics: Path, stop: Path, experiment: Experiment
) -> str:
    deadline = time.monotonic() + experiment.timeout_s
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            return f"no end within timeout_s={experiment.timeout_s:g} s"
        if not stop.exists() and _has_spent(metrics, experiment.responses):
            stop.touch()
            deadline = min(deadline, time.monotonic() + _GRACE_S)
        time.sleep(_POLL_S)
    if code != 0:
        return f"exit code {code}"
    if experiment.responses and not _has_spent(metrics, experiment.responses):
        return f"it ended before {experiment.responses} responses were generated and evaluated"
    return ""


def _has_spent(metrics: Path, responses: int) -> bool:
    """Whether an evaluation at or beyond the budget has been written."""
    if not responses or not metrics.is_file():
        return False
    return any(
        row.get("eval/pass_at_1") is not None
        and (row.get("rollout/responses_total") or 0) >= responses
        for row in read_rows(metrics)
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a run stays: its process group is asked, then killed."""
    for number, wait_s in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 15.0)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue


def _identity(experiment: Experiment, variant: Variant, seed: int) -> list[str]:
    limits: Sequence[str] = [f"responses={experiment.responses}"]
    return [*experiment.words_of(variant, seed), *limits]
