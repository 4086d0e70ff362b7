"""The cases of actor_cases.py, one torchrun per world size, each case reported by its name. Only the cases that pytest
was asked for run in it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actor_cases
import pytest

TIME_LIMIT_S, PER_CASE_S = 600, 10
PROGRAM = Path(actor_cases.__file__)
Outcome = dict[str, Any]


@pytest.fixture(scope="session")
def outcomes_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[str, Outcome]]:
    finished: dict[int, dict[str, Outcome]] = {}

    def outcomes(world_size: int) -> dict[str, Outcome]:
        if world_size not in finished:
            chosen = [
                item.callspec.params["name"]
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and item.originalname == test_actor_at_world_size.__name__
                and item.callspec.params["world_size"] == world_size
            ]
            finished[world_size] = run_cases(world_size, chosen, tmp_path_factory.mktemp("actor"))
        return finished[world_size]

    return outcomes


def _end_with_parent() -> None:
    """Linux's PR_SET_PDEATHSIG: when pytest is killed, torchrun gets SIGTERM and ends its ranks."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def run_cases(
    world_size: int, chosen: list[str], folder: Path, program: Path = PROGRAM
) -> dict[str, Outcome]:
    results, log = folder / "results.jsonl", folder / "torchrun.log"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world_size), str(program), str(results), *chosen]
    root = PROGRAM.parents[2]
    limit_s = TIME_LIMIT_S + PER_CASE_S * len(chosen)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=root,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
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
    missing = {"ok": False, "detail": f"{ended} before this case was done. Its last words:\n{tail}"}
    return {name: found.get(name, missing) for name in chosen}


def _cases() -> list[Any]:
    return [
        pytest.param(
            world_size, name, marks=[pytest.mark.chaos] if name in actor_cases.EXHAUSTIVE else []
        )
        for world_size, cases in actor_cases.CASES.items()
        for name in cases
    ]


@pytest.mark.parametrize(("world_size", "name"), _cases())
def test_actor_at_world_size(
    world_size: int, name: str, outcomes_of: Callable[[int], dict[str, Outcome]]
) -> None:
    outcome = outcomes_of(world_size)[name]
    if not outcome["ok"]:
        pytest.fail(outcome["detail"], pytrace=False)
