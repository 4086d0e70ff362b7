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
from pathlib import Path

from megatron_ar3po.config.load import load_config


def main(config_file: str, overrides: list[str]) -> int:
    config = load_config([config_file], overrides)
    run, rank = config.run.path, int(os.environ["RANK"])
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    step_s = float(os.environ.get("STAND_IN_STEP_S", "0.1")) if restart == "0" else 0.1
    crash_rank, crash_step = (int(n) for n in os.environ.get("STAND_IN_CRASH", "-1:-1").split(":"))
    checkpoint = run / "stand_in_checkpoint"
    first = int(checkpoint.read_text()) if config.run.resume and checkpoint.exists() else 0
    if rank == 0:
        for marker in ("DONE", "STOPPED"):
            (run / marker).unlink(missing_ok=True)
    print(f"rank {rank} of {os.environ['WORLD_SIZE']} starts at step {first}", flush=True)
    for step in range(first + 1, config.run.num_steps + 1):
        time.sleep(step_s)
        if rank == crash_rank and step == crash_step:
            print(f"rank {rank} crashes at step {step}", flush=True)
            return 17
        if rank == 0:
            checkpoint.write_text(str(step))
            (run / f"began.{restart}").touch()
            if Path(os.environ["AR3PO_STOP_FILE"]).exists():
                (run / "STOPPED").write_text(json.dumps({"step": step}))
        elif not wait_for(step, checkpoint, run):
            return 1
        if (run / "STOPPED").exists():
            print(f"rank {rank} stopped at step {step}", flush=True)
            return 0
    if rank == 0:
        (run / "DONE").touch()
    return 0


def wait_for(step: int, checkpoint: Path, run: Path) -> bool:
    """Until rank 0 has taken the step, or has ended the run."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if checkpoint.exists() and int(checkpoint.read_text() or 0) >= step:
            return True
        if (run / "STOPPED").exists() or (run / "DONE").exists():
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
