"""The real trainer as a user starts it: a process of its own, real Megatron-Core, real SGLang, the tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "examples/tiny_sum/config.yaml"
TIME_LIMIT_S = 420

# Small everywhere, so that a run is its start-up and little else.
SHORT = [
    "run.progress=plain",
    "evaluation.max_prompts=16",
    "evaluation.samples_per_prompt=2",
    "observability.tensorboard=false",
]


@dataclass
class Run:
    """One `ar3po train`, ended or under way."""

    folder: Path
    process: subprocess.Popen[str]
    tag: str
    out: str = ""
    err: str = ""
    _ended: bool = field(default=False)

    def wait(self, limit_s: float = TIME_LIMIT_S) -> Run:
        try:
            self.out, self.err = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.out, self.err = self.process.communicate()
            pytest.fail(f"no end within {limit_s} s; the last lines:\n{self.err[-3000:]}")
        return self

    @property
    def code(self) -> int:
        return self.process.returncode

    def require_success(self) -> Run:
        assert self.code == 0, f"exit code {self.code}\n{self.out[-1500:]}\n{self.err[-4000:]}"
        return self

    @property
    def metrics(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_step(self, step: int, limit_s: float = TIME_LIMIT_S) -> None:
        end = time.monotonic() + limit_s
        while not any(row["step"] >= step for row in self.metrics):
            assert self.process.poll() is None, (
                f"ended before step {step}: {self.wait().err[-3000:]}"
            )
            assert time.monotonic() < end, f"no step {step} within {limit_s} s"
            time.sleep(0.2)

    def processes_left(self, within_s: float = 15.0) -> list[str]:
        """What this run started and still runs, found by a mark in its environment."""
        end = time.monotonic() + within_s
        while left := self.marked_processes():
            if time.monotonic() > end:
                return left
            time.sleep(0.3)
        return []

    def marked_processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AR3PO_TEST_TAG") == self.tag:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


class RunStarter:
    """starter("algorithm.name=grpo", ranks=2) -> Run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[Run] = []

    def __call__(
        self,
        *words: str,
        ranks: int = 1,
        nodes: int = 1,
        config: Path = CONFIG,
        short: bool = True,
        cwd: Path = ROOT,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """`ranks` on each of so many `nodes`. `within`: the words of a program that starts the command behind them.
        `environment`: instead of ours."""
        tag = uuid.uuid4().hex
        folder = self._folder / "run"
        for word in words:
            if word.startswith("run.dir="):
                folder = Path(word.removeprefix("run.dir="))
        launcher = ["-m", "megatron_ar3po.train"]
        if ranks > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc-per-node={ranks}", "-m", "megatron_ar3po.train"]
        if nodes > 1:
            launcher = [str(ROOT / "tests/harness/nodes.py"), str(nodes), str(ranks)]
        arguments = [*(SHORT if short else []), f"run.dir={folder}", *words]
        process = subprocess.Popen(
            [*within, sys.executable, *launcher, str(config), *arguments],
            cwd=cwd,
            env={
                **(os.environ if environment is None else environment),
                "OMP_NUM_THREADS": "1",
                "AR3PO_TEST_TAG": tag,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._runs.append(Run(folder, process, tag))
        return self._runs[-1]

    def end_all(self) -> None:
        """Whatever a failed test left is killed."""
        for run in self._runs:
            if run.process.poll() is None:
                os.killpg(run.process.pid, signal.SIGKILL)
                run.process.communicate()
            for line in run.marked_processes():
                os.kill(int(line.split()[0]), signal.SIGKILL)
