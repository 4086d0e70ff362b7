"""SIGKILL of the whole run in the middle of a rollout, with real servers: the run goes on with the responses that were
finished and comes to the same as one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from harness.trainer_runs import Run, RunStarter

WORDS = ["run.num_steps=2", "checkpoint.every_steps=1", "evaluation.every_steps=0"]


@pytest.fixture
def start(tmp_path):
    starter = RunStarter(tmp_path)
    yield starter
    starter.end_all()


def test_a_run_killed_within_a_step_comes_to_the_same_and_draws_nothing_twice(start, tmp_path):
    unkilled = start(*WORDS, f"run.dir={tmp_path / 'unkilled'}").wait().require_success()
    killed = start(*WORDS, f"run.dir={tmp_path / 'killed'}")
    wait_for_rows(killed, step=2, count=20)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.wait()
    assert len(killed.metrics) == 2, "killed after step 1 and before the end of step 2"
    written = rows_of_step(killed.folder, 2)

    again = start(*WORDS, f"run.dir={killed.folder}", "run.resume=true").wait().require_success()
    assert comparable(again.metrics) == comparable(unkilled.metrics)
    for total in ("rollout/responses_total", "rollout/tokens_total"):
        assert again.metrics[-1][total] == unkilled.metrics[-1][total], "nothing is counted twice"
    assert again.metrics[-1]["rollout/cost/restored_responses"] == len(written)
    rows, expected = rows_of_step(again.folder, 2), rows_of_step(unkilled.folder, 2)
    assert len(rows) == len(expected), "what was finished before the kill was not drawn again"
    assert describe(rows) == describe(expected)
    assert not again.processes_left()


def wait_for_rows(run: Run, *, step: int, count: int, limit_s: float = 300.0) -> None:
    end = time.monotonic() + limit_s
    while len(rows_of_step(run.folder, step)) < count:
        assert run.process.poll() is None, f"ended before: {run.wait().err[-3000:]}"
        assert time.monotonic() < end, f"no {count} rows of step {step} within {limit_s} s"
        time.sleep(0.005)


def rows_of_step(folder: Path, step: int) -> list[bytes]:
    """Whole lines."""
    paths = list((folder / "ledger/responses").glob(f"step_{step:05d}.*.jsonl"))
    return [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]


def describe(rows: list[bytes]) -> dict[str, object]:
    """Of each response its seed, tokens and log-probs, and its verdict but for the time it took."""
    described = {}
    for row in map(json.loads, rows):
        verdict = {name: value for name, value in row["verdict"].items() if name != "elapsed_s"}
        described[row["response_id"]] = (row["seed"], row["policy"], row["data"], verdict)
    return described


def comparable(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    """Without what is measured in seconds, and what is new in a run that went on: before the killed step is done again
    its totals hold what had been drawn for that step."""
    differ = ("time/", "memory/", "mismatch/", "rollout/cost/restored_", "rollout/cost/redone_")
    totals = ("rollout/responses_total", "rollout/tokens_total")
    return [
        {
            name: value
            for name, value in row.items()
            if not name.startswith(differ) and not name.endswith("_s") and name not in totals
        }
        for row in metrics
    ]
