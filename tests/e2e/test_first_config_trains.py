"""What `ar3po init` writes is trained on as it stands: real prompts, a real server, a real model."""

from __future__ import annotations

import os
import subprocess
import sys

from harness.trainer_runs import ROOT, TIME_LIMIT_S


def test_a_config_of_init_trains(start_run, tiny_task, tmp_path):
    data = tmp_path / "mine.jsonl"
    lines = (tiny_task / "train.jsonl").read_text().splitlines(keepends=True)[:40]
    data.write_text("".join(lines))
    words = [
        "init",
        str(tmp_path / "first"),
        "--data",
        str(data),
        "--model",
        str(tiny_task / "model"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.cli", *words, "--verifier", "last_number"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = start_run("run.num_steps=1", config=tmp_path / "first/config.yaml", short=False)
    run.wait().require_success()
    assert [row["eval/prompts"] for row in run.metrics] == [4, 4]
    assert run.metrics[1]["rollout/prompts"] == 16
    assert f"the policy as a Hugging Face folder is {run.folder}/hf" in run.out.splitlines()[-1]
