"""From `ar3po train` to the end of its first step, of two checkouts in turn: wall clock and processor time.

    python benchmarks/start.py [--before FOLDER] [--rounds 5]

FOLDER is another checkout, such as one made with `git worktree add FOLDER COMMIT`; this one is the other. Both run in
this Python, on the tiny task of .cache/tiny_sum (`make train` makes it). Seconds are read when the line of step 1 is
shown; processor time is that of the trainer and all that it has started, until then.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

HERE = Path(__file__).resolve().parents[1]
LIMIT_S = 600.0


class Start(NamedTuple):
    first_line_s: float
    step_s: float
    cpu_s: float


def measure(checkout: Path, folder: Path) -> Start:
    """One run of two steps."""
    task = HERE / ".cache/tiny_sum"
    words = [
        str(HERE / "examples/tiny_sum/config.yaml"),
        f"model.path={task}/model",
        f"data.path={task}/train.jsonl",
        "evaluation.path=",
        "run.num_steps=2",
        "run.progress=plain",
        f"run.dir={folder}",
    ]
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "megatron_ar3po.cli", "train", *words],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        assert run.stdout is not None
        signal.alarm(int(LIMIT_S))
        said, first, step, cpu = [], 0.0, 0.0, 0.0
        for line in run.stdout:
            said.append(line)
            first = first or time.monotonic() - begun
            if "step 1/2" in line and not step:
                step, cpu = time.monotonic() - begun, processor_seconds(run.pid)
        signal.alarm(0)
    if run.returncode or not step:
        raise RuntimeError("".join(said))
    return Start(first, step, cpu)


def processor_seconds(pid: int) -> float:
    """Of a process, those that it started, and those of them that have ended and were waited for."""
    total = 0.0
    trainer = psutil.Process(pid)
    for process in [trainer, *trainer.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
        total += times.children_user + times.children_system
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    checkouts = {"after": HERE}
    if arguments.before is not None:
        checkouts = {"before": arguments.before.resolve(), **checkouts}
    found: dict[str, list[Start]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for name, checkout in checkouts.items():
                found[name].append(measure(checkout, Path(folder) / f"{name}_{number}"))
                print(f"round {number + 1} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print("| | first line, s | first step done, s | processor time, s |\n|---|---|---|---|")
    for name, starts in found.items():
        print_row(name, [statistics.median(values) for values in zip(*starts, strict=True)], 1)
    if "before" in found:
        pairs = zip(found["after"], found["before"], strict=True)
        ratios = [[a / b for a, b in zip(*pair, strict=True)] for pair in pairs]
        medians = [statistics.median(values) for values in zip(*ratios, strict=True)]
        print_row(f"after / before, median of {arguments.rounds} pairs", medians, 2)


def print_row(name: str, values: Sequence[float], digits: int) -> None:
    print(f"| {name} | {' | '.join(f'{value:.{digits}f}' for value in values)} |")


if __name__ == "__main__":
    main()
