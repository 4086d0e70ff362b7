"""The runner, with a program of a few lines in the trainer's place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megatron_ar3po.comparison import runner
from megatron_ar3po.comparison.experiment import Experiment, Variant
from megatron_ar3po.comparison.runner import is_finished, run_all

# Writes a row a tenth of a second with 100 responses and an evaluation, until it is asked to stop or has 50 rows.
TRAINER = """
import json, os, sys, time
from pathlib import Path
words = dict(w.split("=", 1) for w in sys.argv[4:])
folder = Path(words["run.dir"])
folder.mkdir(parents=True)
if words["algorithm.name"] == "broken":
    sys.exit(3)
if words["algorithm.name"] == "endless":
    time.sleep(60)
with (folder / "metrics.jsonl").open("a") as file:
    for step in range(50):
        row = {"step": step, "eval/pass_at_1": 0.5, "rollout/responses_total": 100 * step}
        print(json.dumps(row), file=file, flush=True)
        if Path(os.environ["AR3PO_STOP_FILE"]).exists():
            sys.exit(0)
        time.sleep(0.1)
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> Experiment:
    program = tmp_path / "python"
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(program))
    monkeypatch.setattr(runner, "_POLL_S", 0.05)
    monkeypatch.setattr(Experiment, "_enough_steps", lambda self, words: [])
    return Experiment(
        config=tmp_path / "config.yaml",
        variants=(Variant(name="one", words=("algorithm.name=one",)),),
        seeds=(0, 1),
        responses=300,
        timeout_s=30,
    )


def lines(out: Path, name: str) -> int:
    return (out / "runs" / name / "metrics.jsonl").read_text().count("\n")


def test_runs_end_at_the_budget_and_are_not_repeated(experiment, tmp_path) -> None:
    out = tmp_path / "out"
    assert run_all(experiment, out, is_quiet=True) == []
    for name in ("one-s0", "one-s1"):
        assert (
            4 <= lines(out, name) < 50
        )  # rows 0, 100, 200, 300 and those until it saw the request
    before = (out / "runs/one-s0/metrics.jsonl").stat().st_mtime_ns
    assert run_all(experiment, out, is_quiet=True) == []
    assert (out / "runs/one-s0/metrics.jsonl").stat().st_mtime_ns == before


def test_a_run_that_was_cut_short_begins_anew(experiment, tmp_path) -> None:
    out = tmp_path / "out"
    folder = out / "runs" / "one-s0"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 0, "eval/pass_at_1": 0.1}\n' * 60)
    assert run_all(experiment, out, is_quiet=True) == []
    assert lines(out, "one-s0") < 50


def test_a_run_that_fails_is_named_and_the_others_go_on(experiment, tmp_path) -> None:
    variants = (Variant(name="bad", words=("algorithm.name=broken",)), *experiment.variants)
    mixed = Experiment(
        config=experiment.config, variants=variants, seeds=(0,), responses=300, timeout_s=30
    )
    [failure] = run_all(mixed, tmp_path / "out", is_quiet=True)
    assert failure.run == "bad-s0"
    assert "exit code 3" in failure.reason and "bad-s0.log" in failure.reason
    assert is_finished(mixed, tmp_path / "out", experiment.variants[0], 0)
    assert not is_finished(mixed, tmp_path / "out", variants[0], 0)


def test_a_run_beyond_its_time_limit_is_ended(experiment, tmp_path) -> None:
    endless = Experiment(
        config=experiment.config,
        variants=(Variant(name="slow", words=("algorithm.name=endless",)),),
        seeds=(0,),
        timeout_s=0.5,
    )
    [failure] = run_all(endless, tmp_path / "out", is_quiet=True)
    assert "timeout_s=0.5 s" in failure.reason


def test_a_run_that_ends_before_its_budget_does_not_count(experiment, tmp_path) -> None:
    """50 rows come to 4,900 responses."""
    greedy = Experiment(
        config=experiment.config,
        variants=experiment.variants,
        seeds=(0,),
        responses=5000,
        timeout_s=30,
    )
    [failure] = run_all(greedy, tmp_path / "out", is_quiet=True)
    assert "before 5000 responses" in failure.reason


def test_runs_made_with_other_options_are_not_mixed(experiment, tmp_path) -> None:
    out = tmp_path / "out"
    run_all(experiment, out, is_quiet=True)
    other = Experiment(
        config=experiment.config,
        variants=experiment.variants,
        seeds=(0, 1),
        common=("actor.learning_rate=1e-3",),
        responses=300,
    )
    with pytest.raises(ValueError, match=r"actor\.learning_rate=1e-3.*another --out"):
        run_all(other, out, is_quiet=True)
