"""Whole runs on a file system that is really full (a tmpfs; skipped where this user may not mount)."""

from __future__ import annotations

import json

import pytest
from harness.tiny_disk import mount_tiny_disk


def sentence(run) -> str:
    """The one line that a user is told."""
    assert run.code == 2, run.err[-3000:]
    assert "Traceback" not in run.err, run.err[-5000:]
    [said] = [line for line in run.err.splitlines() if line.startswith("ar3po: error: ")]
    return said


def test_a_run_whose_checkpoint_would_not_fit_is_refused_before_it_samples(start_run, tmp_path):
    """The model's 0.3 M parameters in fp32, with AdamW's state, are 5 MiB."""
    with mount_tiny_disk(tmp_path / "disk", mib=2):
        run = start_run("run.num_steps=2", f"run.dir={tmp_path}/disk/run").wait(90)
        said = sentence(run)
        assert f"{tmp_path}/disk/run/checkpoints has room for " in said
        assert " MiB that a checkpoint takes" in said and "none was begun" in said
        assert not (run.folder / "logs").exists()  # no server was started
        assert run.processes_left() == []


@pytest.mark.parametrize("what", ["in the middle of a step", "before a checkpoint"])
def test_a_disk_that_fills_is_one_sentence_and_with_room_the_run_goes_on(start_run, tmp_path, what):
    every = 1 if what == "before a checkpoint" else 2
    with mount_tiny_disk(tmp_path / "disk", mib=64) as disk:
        words = [
            f"run.dir={disk.path}/run",
            "evaluation.max_prompts=4",
            "checkpoint.in_background=false",
        ]
        words += [f"checkpoint.every_steps={every}", "run.num_steps=1000"]
        run = start_run(*words)
        run.wait_for_step(3)
        disk.fill()
        run.wait(90)
        said = sentence(run)
        assert str(disk.path) in said, said
        assert (
            "No space left on device" in said
            or "no space left on the disk of" in said
            or "has room for" in said
        )
        assert run.processes_left() == []
        newest = (run.folder / "checkpoints/latest").read_text()
        disk.make_room()
        last = json.loads((run.folder / "checkpoints" / newest / "state.json").read_text())["step"]
        again = start_run(*words, "run.resume=true", f"run.num_steps={last + 1}").wait()
        again.require_success()
        assert f"resumed from {run.folder}/checkpoints/{newest}" in again.err
        assert [row["step"] for row in again.metrics] == list(range(last + 2))
