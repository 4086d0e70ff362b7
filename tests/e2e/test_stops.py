"""Runs that are asked to stop, by signals of the real kernel and by their own clock. Ctrl-C once is in
test_bad_input.py; schedulers are in tests/slurm and tests/unit/launch/test_node.py."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

GRADERS = Path(__file__).parents[1]  # fakes.graders, for workers that start from the current folder
FEW = "evaluation.max_prompts=4"


@pytest.fixture
def graders_are_importable(monkeypatch):
    known = [str(GRADERS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in known if part))


def half_files(folder: Path) -> list[str]:
    """What is under a temporary name, and JSONL files whose last line is torn."""
    torn = [p for p in folder.rglob("*.jsonl") if not p.read_bytes().endswith(b"\n")]
    return sorted(str(p.relative_to(folder)) for p in [*folder.rglob("*.tmp"), *torn])


def test_sigterm_to_one_rank_stops_all_after_their_step(start_run):
    """As USR1 does. The reason is on rank 0, which was not asked."""
    run = start_run("run.num_steps=1000", FEW, ranks=2)
    run.wait_for_step(1)
    pid = json.loads((run.folder / "status/rank_00001.json").read_text())["pid"]
    os.kill(pid, signal.SIGTERM)
    run.wait(90).require_success()
    stopped = json.loads((run.folder / "STOPPED").read_text())
    assert stopped["reason"] == "SIGTERM"
    assert (run.folder / "checkpoints/latest").read_text() == f"step_{stopped['step']:05d}"
    assert f"stopped after step {stopped['step']} of 1000 (SIGTERM)" in run.out
    assert run.processes_left() == []


@pytest.mark.usefixtures("graders_are_importable")
def test_a_second_ctrl_c_ends_at_once_and_cleanly(start_run):
    """The step would last more than a minute: every response is graded for a second."""
    run = start_run(
        "run.num_steps=2",
        "rewards.verifier=fakes.graders:slow",
        "evaluation.samples_per_prompt=1",
        FEW,
        "servers.routing=global",
    )
    run.wait_for_step(0)
    os.killpg(run.process.pid, signal.SIGINT)
    time.sleep(2.5)
    asked = time.monotonic()
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait(30)
    assert time.monotonic() - asked < 20
    assert run.code == 130, run.err[-3000:]
    assert "Traceback" not in run.err, run.err[-3000:]
    [said] = [line for line in run.err.splitlines() if line.startswith("ar3po: error: ")]
    assert said.startswith("ar3po: error: ended by SIGINT; what was saved before stays")
    assert run.processes_left() == []
    assert half_files(run.folder) == []
    assert not (run.folder / "STOPPED").exists() and not (run.folder / "owner.json").exists()


def test_a_run_whose_seconds_have_passed_stops_saved_and_gets_on_when_it_is_resumed(start_run):
    """A second is over before the first step; each start makes one step all the same."""
    words = ["run.num_steps=1000", "run.max_seconds=1", FEW]
    first = start_run(*words).wait().require_success()
    stopped = json.loads((first.folder / "STOPPED").read_text())
    assert (stopped["step"], stopped["reason"]) == (1, "run.max_seconds=1 reached")
    second = start_run(*words, f"run.dir={first.folder}", "run.resume=true").wait()
    second.require_success()
    stopped = json.loads((first.folder / "STOPPED").read_text())
    assert (stopped["step"], stopped["steps_made"]) == (2, 1)
    assert (first.folder / "checkpoints/latest").read_text() == "step_00002"
    assert second.processes_left() == []


@pytest.mark.usefixtures("graders_are_importable")
def test_a_run_whose_gradients_are_not_finite_saves_and_fails_in_one_sentence(start_run):
    """Two updates in a row, where one is allowed. The policy was never updated: it is that of the start, and resuming
    takes it up."""
    run = start_run(
        "run.num_steps=1000",
        "algorithm.policy_loss=fakes.losses:with_nan_gradient",
        "actor.max_skipped_updates=1",
        FEW,
        ranks=2,
    )
    run.wait()
    assert run.code == 1, run.err[-3000:]
    said = "2 updates in a row had a loss or a gradient that is not finite and were skipped"
    assert f"ar3po: error: {said} (actor.max_skipped_updates=1; the last: loss 0, " in run.err
    stopped = json.loads((run.folder / "STOPPED").read_text())
    assert stopped["reason"].startswith(said) and stopped["policy_version"] == 0
    newest = run.folder / "checkpoints" / (run.folder / "checkpoints/latest").read_text()
    state = json.loads((newest / "state.json").read_text())
    assert (state["step"], state["policy_version"]) == (stopped["step"], 0)
    assert state["totals"]["actor/skipped_updates_total"] == 2
    assert run.processes_left() == []
