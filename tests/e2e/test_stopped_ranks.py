"""A rank that stands still (SIGSTOP) while the others wait for it inside Megatron: real torchrun, real Megatron-Core,
two ranks. Not exercised: NCCL, whose waits are not on the main thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from megatron_ar3po.distributed.rank_status import read_statuses

GRADERS = Path(__file__).parents[1]  # fakes.standing
STALL_S = 10.0
WORDS = [
    "run.num_steps=1000",
    f"run.stall_report_s={STALL_S:g}",
    "algorithm.policy_loss=fakes.standing:in_training",
    "actor.max_tokens_per_microbatch=2048",
    "evaluation.path=",
]


def stopped_process(folder: Path, limit_s: float = 120.0) -> psutil.Process:
    """Rank 1's, once it stands still."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        for status in read_statuses(folder / "status"):
            process = psutil.Process(status.pid)
            if status.rank == 1 and process.status() == psutil.STATUS_STOPPED:
                return process
        time.sleep(0.1)
    raise TimeoutError(f"no rank of {folder} has stopped within {limit_s} s")


def ask_status(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "megatron_ar3po.cli", "status", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False).stdout


def test_a_rank_that_stands_still_in_a_collective_of_megatrons_is_named_by_log_status_and_error(
    start_run, monkeypatch
):
    known = [str(GRADERS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in known if part))
    run = start_run(*WORDS, ranks=2)
    stopped = stopped_process(run.folder)
    since = time.monotonic()
    log = run.folder / "train.log"
    who = f"rank 1 ({os.uname().nodename}, pid {stopped.pid})"
    while who not in log.read_text():
        assert time.monotonic() - since < 2 * STALL_S, log.read_text()[-2000:]
        time.sleep(0.2)
    told = next(line for line in log.read_text().splitlines() if who in line)
    assert "last in step/train/update; its process stands still (stopped by a signal; kill" in told

    shown = ask_status(run.folder, "--stacks")
    assert f"no stack of {who}: not heard of for " in shown
    assert "silent, last in step/train/update" in shown
    assert "rank 0 is at" in shown
    [waits] = [line for line in shown.splitlines() if line.startswith("0  ")]
    assert "step/train/update, waiting for others in " in waits
    assert f"1 rank waits for {who}: not heard of for " in shown

    stopped.send_signal(signal.SIGKILL)
    run.wait(60)
    assert run.code == 1, run.err[-3000:]
    [said] = [line for line in run.err.splitlines() if line.startswith("ar3po: error: ")]
    assert "Connection closed by peer" in said or "Connection reset by peer" in said
    assert f"Meanwhile {who}: not heard of for " in said
    assert said.endswith("last in step/train/update; its process has ended.")
    end = json.loads((run.folder / "status/rank_00000.json").read_text())["end"]
    assert end.startswith("failed in a collective: RuntimeError: ")
    assert run.processes_left() == []
