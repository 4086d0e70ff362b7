"""Keeps the trainer's contract with the launch scripts, and nothing else: steps, a checkpoint a step, a stop that is
agreed over all ranks, STOPPED or DONE at the end, resume. No torch, so a job of two nodes costs seconds.

Rank 0 leads; the other ranks follow the step it writes. STAND_IN_STEP_S is the length of a step before the first
restart, STAND_IN_CRASH "RANK:STEP" makes one rank fail.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.config.load import load_config
from megatron_ar3po.platform.running_code import PACKAGE


def main(config_file: str, overrides: list[str]) -> int:
    config = load_config([config_file], overrides)
    run, rank = config.run.path, int(os.environ["RANK"])
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    step_s = float(os.environ.get("STAND_IN_STEP_S", "0.1")) if restart == "0" else 0.1
    crash_rank, crash_step = (int(n) for n in os.environ.get("STAND_IN_CRASH", "-1:-1").split(":"))
    checkpoint, start = run / "stand_in_checkpoint", run / f"start.{restart}"
    if rank == 0:
        for marker in ("DONE", "STOPPED"):
            (run / marker).unlink(missing_ok=True)
        resumed = checkpoint.read_text() if config.run.resume and checkpoint.exists() else "0"
        write(checkpoint, resumed)
        write(start, resumed)
    elif not wait_until(start.exists):
        return 1
    first = int(start.read_text())
    print(f"rank {rank} runs the code in {PACKAGE.parent}", flush=True)
    print(f"rank {rank} of {os.environ['WORLD_SIZE']} starts at step {first}", flush=True)
    for step in range(first + 1, config.run.num_steps + 1):
        time.sleep(step_s)
        if rank == crash_rank and step == crash_step:
            print(f"rank {rank} crashes at step {step}", flush=True)
            return 17
        if rank == 0:
            write(checkpoint, str(step))
            (run / f"began.{restart}").touch()
            if Path(os.environ["AR3PO_STOP_FILE"]).exists():
                write(run / "STOPPED", json.dumps({"step": step}))
        elif not wait_until(
            lambda step=step: int(checkpoint.read_text()) >= step or (run / "STOPPED").exists()
        ):
            return 1
        if (run / "STOPPED").exists():
            print(f"rank {rank} stopped at step {step}", flush=True)
            return 0
    if rank == 0:
        (run / "DONE").touch()
    return 0


def write(path: Path, text: str) -> None:
    """Whole or not at all: other ranks are reading."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").replace(path)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
