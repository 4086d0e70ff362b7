"""A run that is killed at a random moment and resumed is the run that was not killed: harness/killed_runs.py makes each
trial and holds it against its reference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.killed_runs import VICTIMS, Trial, go_on
from harness.trainer_runs import ROOT

TRIALS = int(os.environ.get("AR3PO_KILLED_RUNS", "100"))
FOLDER = (
    ROOT / ".cache/killed_runs"
)  # kept: the next sitting goes on from the first number that is missing


def test_the_trials_cover_every_victim_with_and_without_seeds_and_stop_one_in_ten_first():
    trials = [Trial.of(number) for number in range(100)]
    assert {(t.victim, t.deterministic) for t in trials} == {
        (victim, is_seeded) for victim in VICTIMS for is_seeded in (True, False)
    }
    assert sum(t.is_stopped_first for t in trials) == 10
    assert {t.after_step for t in trials} == set(range(-1, 12))
    assert Trial.of(17) == Trial.of(17)


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_a_hundred_runs_killed_at_random_moments_end_as_the_run_that_was_not_killed(
    tiny_task, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    results = go_on(Path(FOLDER), TRIALS)
    faults = {result.trial.number: result.faults for result in results if result.faults}
    assert not faults
