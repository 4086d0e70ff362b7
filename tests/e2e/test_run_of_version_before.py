"""A run that version 0.1.0 wrote goes on in this version, on the real trainer: what 0.1.0 itself did next from the same
checkpoint is in tests/fixtures/run_of_0_1_0/steps_5_and_6.jsonl. What opens and what is refused without an upgrade is
in tests/unit/run/test_upgrade.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.trainer_runs import ROOT, TIME_LIMIT_S

from megatron_ar3po.run.upgrade import upgrade_run

MEASURED = ("actor/", "eval/", "group/", "response/", "reuse/", "reward/", "rollout/")


@pytest.fixture
def upgraded(old_run: Path) -> Path:
    """As an absolute path: the trainer is started in another folder."""
    upgrade_run(old_run)
    return old_run.resolve()


def words_for(folder: Path) -> list[str]:
    """Where the model and the prompts of the run's config lie, which names them as seen from its own folder."""
    prompts = folder.parent / "prompts.jsonl"
    return [
        f"model.path={folder.parent}/model",
        f"data.path={prompts}",
        f"evaluation.path={prompts}",
    ]


def test_a_resume_does_what_the_version_before_did_next(upgraded, start_run):
    """Weights, optimizer, prompts and the store's loans: the same samples, rewards and updates in steps 5 and 6."""
    run = start_run(
        f"run.dir={upgraded}",
        "run.num_steps=6",
        "run.resume=true",
        *words_for(upgraded),
        config=upgraded / "resolved_config.yaml",
        short=False,
    )
    run.wait().require_success()
    assert [row["step"] for row in run.metrics] == list(range(7))
    lines = (upgraded.parent / "steps_5_and_6.jsonl").read_text().splitlines()
    for expected, row in zip(map(json.loads, lines), run.metrics[5:], strict=True):
        measured = {
            name: value
            for name, value in expected.items()
            if name.startswith(MEASURED) and name != "reuse/store_bytes"
        }
        assert measured["reuse/borrowed_groups"] == 1 and measured["actor/grad_norm"] > 0.5
        got = {name: row.get(name) for name in measured}
        assert got == pytest.approx(measured, rel=1e-4, abs=1e-5)
    assert json.loads((upgraded / "DONE").read_text())["policy_version"] == 6
    assert run.processes_left() == []


def test_an_evaluation_of_its_checkpoint_repeats_its_last_one(upgraded, tmp_path):
    command = [sys.executable, "-m", "megatron_ar3po.cli", "evaluate", str(upgraded)]
    done = subprocess.run(
        [
            *command,
            *words_for(upgraded),
            "--json",
            f"--out={tmp_path}/out",
            f"--store={tmp_path}/items",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    last = json.loads((upgraded / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["policy"].endswith("checkpoints/step_00004/model")
    found = result["sets"]["heldout"]
    assert found["pass_at_1"] == pytest.approx(last["eval/pass_at_1"], abs=1e-6)
    assert (found["tokens"], found["prompts"]) == (last["eval/tokens"], last["eval/prompts"])
