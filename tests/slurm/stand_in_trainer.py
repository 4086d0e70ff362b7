"""Keeps the trainer's contract with the launch scripts, and nothing else: the folder's owner and its markers (the
trainer's own functions), steps, a checkpoint a step, a stop that is agreed over all ranks before each step, resume. No
torch, so a job of two nodes costs seconds.

Rank 0 leads; the other ranks follow the step it writes. STAND_IN_STEP_S is the length of a step and STAND_IN_START_S of
the start, before the first restart; STAND_IN_CRASH "RANK:STEP" makes one rank fail, before the first restart.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.folder_owner import FolderOwner
from megatron_ar3po.platform.running_code import PACKAGE
from megatron_ar3po.run.folder import begin_run, check_run_folder, mark_end
from megatron_ar3po.run.state import RunState, StartingPoint

RESTART = os.environ.get("SLURM_RESTART_COUNT", "0")


def main(config_file: str, overrides: list[str]) -> int:
    config = load_config([config_file], overrides)
    run, rank = config.run.path, int(os.environ["RANK"])
    if rank == 0:
        owner = FolderOwner.claim(run)
        try:
            return train(config, rank)
        finally:
            owner.release()
    return train(config, rank) if wait_until((run / f"start.{RESTART}").exists) else 1


def train(config: Config, rank: int) -> int:
    run, world_size = config.run.path, int(os.environ["WORLD_SIZE"])
    if rank == 0:
        begin(config)
    first = int((run / f"start.{RESTART}").read_text())
    print(f"rank {rank} runs the code in {PACKAGE.parent}", flush=True)
    print(f"rank {rank} of {world_size} starts at step {first}", flush=True)
    if RESTART == "0":
        time.sleep(float(os.environ.get("STAND_IN_START_S", "0")))
    watch = RankWatch(rank, world_size)
    with watch.writing(run / "status", report_after_s=0):
        step = take_steps(config, rank, first, watch)
    if rank == 0:
        is_done = step == config.run.num_steps
        made = step - first
        mark_end(run, RunState(step=step), is_done=is_done, reason="asked", steps_made=made)
    print(f"rank {rank} stopped at step {step}", flush=True)
    return 0


def begin(config: Config) -> None:
    run = config.run.path
    check_run_folder(config)
    begin_run(config, StartingPoint(), take_up_ledger=lambda: None)
    newest = max((run / "checkpoints").glob("step_*"), default=Path("step_0"))
    write(run / f"start.{RESTART}", str(int(newest.name[5:])))


def take_steps(config: Config, rank: int, first: int, watch: RankWatch) -> int:
    """The step after which it ends: the last one, or before the first that was not to be taken."""
    run = config.run.path
    last = run / f"last.{RESTART}"  # what rank 0 has said: so far, and "stop" behind it
    step_s = float(os.environ.get("STAND_IN_STEP_S", "0.1")) if RESTART == "0" else 0.1
    crash = os.environ.get("STAND_IN_CRASH", "") if RESTART == "0" else ""
    watch.steps_done = first
    for step in range(first + 1, config.run.num_steps + 1):
        if rank == 0:
            is_asked = Path(os.environ["AR3PO_STOP_FILE"]).exists()
            write(last, f"{step} {'stop' if is_asked else 'go'}")
        elif not wait_until(lambda step=step: says(last, step)):
            raise TimeoutError(f"rank 0 never came to step {step}")
        if last.read_text() == f"{step} stop":
            return step - 1
        time.sleep(step_s)
        if crash == f"{rank}:{step}":
            print(f"rank {rank} crashes at step {step}", flush=True)
            os._exit(17)  # as of SIGKILL: nothing is let go, nothing is written
        watch.steps_done = step
        if rank == 0:
            (run / "checkpoints" / f"step_{step:05d}").mkdir(parents=True, exist_ok=True)
            (run / f"began.{RESTART}").touch()
    return config.run.num_steps


def says(last: Path, step: int) -> bool:
    return last.exists() and int(last.read_text().split()[0]) >= step


def write(path: Path, text: str) -> None:
    """Whole or not at all: other ranks are reading."""
    path.with_name(f".{path.name}.part").write_text(text)
    path.with_name(f".{path.name}.part").replace(path)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
