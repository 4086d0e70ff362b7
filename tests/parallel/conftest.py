"""One torchrun per program and world size, each of its cases reported by its name. Only the cases that pytest was asked
for run in it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.trainer_runs import ROOT

TIME_LIMIT_S, PER_CASE_S = 600, 10
Outcome = dict[str, Any]


@pytest.fixture(scope="session")
def finished() -> dict[tuple[Path, int], dict[str, Outcome]]:
    """The outcomes of the programs that have run: (program, world size) to name to outcome."""
    return {}


@pytest.fixture
def outcome(
    request: pytest.FixtureRequest,
    finished: dict[tuple[Path, int], dict[str, Outcome]],
    tmp_path_factory: pytest.TempPathFactory,
    world_size: int,
    name: str,
) -> Outcome:
    """Of the case that this test is about."""
    program = request.module.PROGRAM
    if (program, world_size) not in finished:
        chosen = [
            item.callspec.params["name"]
            for item in request.session.items
            if isinstance(item, pytest.Function)
            and item.function is request.function
            and item.callspec.params["world_size"] == world_size
        ]
        folder = tmp_path_factory.mktemp(program.stem)
        finished[program, world_size] = run_cases(program, world_size, chosen, folder)
    return finished[program, world_size][name]


def _end_with_parent() -> None:
    """Linux's PR_SET_PDEATHSIG: when pytest is killed, torchrun gets SIGTERM and ends its ranks."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def run_cases(
    program: Path, world_size: int, chosen: list[str], folder: Path
) -> dict[str, Outcome]:
    results, log = folder / "results.jsonl", folder / "torchrun.log"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world_size), str(program), str(results), *chosen]
    limit_s = TIME_LIMIT_S + PER_CASE_S * len(chosen)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            ended = f"torchrun ended with {process.wait(limit_s)}"
        except subprocess.TimeoutExpired:
            ended = f"torchrun took more than {limit_s} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    found = {line["case"]: line for line in map(json.loads, lines)}
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    missing = {
        "ok": False,
        "detail": f"{ended} before this case was done. Its log ends:\n{tail}",
    }
    return {name: found.get(name, missing) for name in chosen}
