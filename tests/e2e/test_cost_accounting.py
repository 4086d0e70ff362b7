"""What a run has cost, by its ledger, its metrics and its servers, when all goes wrong that may: responses cancelled,
responses aborted by the server and drawn again, a server killed in a rollout, the whole run killed and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness.trainer_runs import ROOT, Run, RunStarter

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.sampling_cost import SamplingCost, cost_of, generated_in

WORDS = [
    "run.num_steps=3",
    "run.deterministic=false",
    "checkpoint.every_steps=1",
    "evaluation.every_steps=0",
    "evaluation.max_prompts=4",
    "rollout.prompts_per_step=48",
    "rollout.cancel_solved=true",
    "rollout.max_response_tokens=24",
    "servers.max_concurrent_requests=8",
    "servers.max_retries=30",
]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[RunStarter]:
    starter = RunStarter(tmp_path)
    yield starter
    starter.end_all()


def test_ledger_metrics_and_servers_agree_after_cancels_aborts_a_killed_server_and_a_resume(start):
    """An operator aborts all that the server runs, again and again; it is killed in step 2, the whole run in step 3."""
    run = start(*WORDS)
    stop = threading.Event()
    aborts = threading.Thread(target=abort_until, args=(run, stop))
    aborts.start()
    try:
        wait_until(run, lambda: count_logged(run, step=2) >= 20)
        server = find_server(run)
        assert server is not None, "no server runs"
        os.killpg(server.pid, signal.SIGKILL)
        wait_until(run, lambda: count_logged(run, step=3) >= 20)
    finally:
        stop.set()
        aborts.join(60)
    os.killpg(run.process.pid, signal.SIGKILL)
    run.wait()
    again = start(*WORDS, "run.resume=true").wait().require_success()

    rows = rows_of_run(again.folder / "ledger")
    cost, last, report = cost_of(rows), again.metrics[-1], read_report(again.folder)
    assert last["rollout/responses_total"] == cost.total.responses == report["responses_total"]
    assert last["rollout/tokens_total"] == cost.total.tokens == report["tokens_total"]
    assert cost.classes["cancelled"].responses > 0 and cost.classes["aborted"].responses > 0
    assert last["rollout/cost/restored_responses"] >= 20
    assert_equals_the_servers(rows, cost)
    assert not again.processes_left()


def assert_equals_the_servers(rows: list[dict[str, Any]], cost: SamplingCost) -> None:
    """The last counters of each process of the server, and what a killed one had answered, come to all that was
    generated, but for what the killed run was answered since it had last asked for them: the row of kind `cut_short`.
    The last evaluation comes after the last time."""
    processes: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["kind"] in ("server", "lost_server"):
            processes[row["session"], row["server"], row["restarts"]] = row
    assert [key[0] for key in processes] == [
        0,
        0,
        1,
    ]  # the killed one, its successor, the resumed run's
    (cut_short,) = (row for row in rows if row["kind"] == "cut_short")
    last_evaluation = [row for row in rows if row["kind"] == "evaluation"][-1]
    reported = (
        cost.total + cost.evaluation - generated_in(cut_short) - generated_in(last_evaluation)
    )
    assert sum(row["requests"] for row in processes.values()) == reported.responses
    assert sum(row["generated_tokens"] for row in processes.values()) == reported.tokens


def abort_until(run: Run, stop: threading.Event) -> None:
    while not stop.wait(0.3):
        server = find_server(run)
        if server is None or not run.metrics:
            continue
        with contextlib.suppress(HttpError, psutil.NoSuchProcess):
            port = json.loads(server.cmdline()[-1])["port"]
            url = f"http://127.0.0.1:{port}/abort_request"
            request("POST", url, json={"abort_all": True}, timeout_s=5)


def find_server(run: Run) -> psutil.Process | None:
    """The head of its group."""
    for line in run.marked_processes():
        pid = int(line.split()[0])
        if "platform.sglang_launch" in line and os.getpgid(pid) == pid:
            return psutil.Process(pid)
    return None


def read_report(folder: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "megatron_ar3po.cli", "report", str(folder), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def count_logged(run: Run, *, step: int) -> int:
    paths = (run.folder / "ledger/responses").glob(f"step_{step:05d}.*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in paths)


def wait_until(run: Run, condition: Callable[[], bool], limit_s: float = 300.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert run.process.poll() is None, f"ended before: {run.wait().err[-3000:]}"
        assert time.monotonic() < end, f"not within {limit_s} s"
        time.sleep(0.005)
