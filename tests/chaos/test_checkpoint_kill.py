"""A whole run is killed while a checkpoint is on its way to the disk."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos


def in_the_middle(checkpoints: Path) -> bool:
    """One is whole, the next one is being written: it is committed at the end of a later step."""
    return (checkpoints / "latest").is_file() and any(checkpoints.glob("step_?????.tmp"))


def test_a_run_killed_with_a_checkpoint_on_its_way_goes_on_from_the_one_before(start_run, tmp_path):
    words = [f"run.dir={tmp_path / 'run'}", "checkpoint.every_steps=1", "evaluation.path="]
    checkpoints = tmp_path / "run/checkpoints"
    first = start_run(*words, "run.num_steps=1000")
    deadline = time.monotonic() + 600
    while not in_the_middle(checkpoints):
        assert first.process.poll() is None and time.monotonic() < deadline, "no checkpoint began"
        time.sleep(0.02)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.wait(60)
    (left,) = checkpoints.glob("step_?????.tmp")
    whole = (checkpoints / "latest").read_text()
    assert int(left.name[5:10]) == int(whole[5:10]) + 1
    again = start_run(*words, "run.resume=true", f"run.num_steps={int(whole[5:10]) + 2}")
    again.wait(600).require_success()
    assert f"resumed from {checkpoints / whole}" in (tmp_path / "run/train.log").read_text()
    assert [row["step"] for row in again.metrics] == list(range(int(whole[5:10]) + 3))
    assert not list(checkpoints.glob("*.tmp"))
    assert again.processes_left() == []
