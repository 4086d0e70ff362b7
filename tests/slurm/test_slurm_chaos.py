"""The long forms: Slurm's own warning at its own time, and the real trainer under NeMo-Run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import HERE, ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

TINY = ROOT / ".cache" / "tiny_sum"


def test_slurms_own_warning_saves_requeues_and_finishes(cluster, job_env, run_dir, tmp_path):
    """Three minutes of time, warned 60 to 120 s before their end: Slurm may be a minute early. After the requeue steps
    are short and the run ends."""
    options = ["--nodes=2", "--time=3", "--signal=B:USR1@60", f"--output={tmp_path}/job-%j.out"]
    env = job_env | {"STAND_IN_STEP_S": "1"}
    script = ROOT / "launch_slurm" / "ar3po_32b.sh"
    job_id = cluster.sbatch(script, "run.num_steps=150", options=options, env=env)
    job = cluster.wait_for_job(job_id, timeout_s=300)
    assert (job.state, job.restarts) == ("COMPLETED", 1), (
        tmp_path / f"job-{job_id}.out"
    ).read_text()
    assert (run_dir / "DONE").exists()


@pytest.mark.parametrize("where", ["local", "slurm"])
def test_nemo_run_trains_the_tiny_example_with_the_real_trainer(where, cluster, run_dir):
    if not (TINY / "model" / "config.json").is_file():
        pytest.skip(
            "no tiny model; make it with: python tools/make_tiny_model.py --out .cache/tiny_sum"
        )
    run_dir.mkdir()
    (run_dir / ".cache").symlink_to(ROOT / ".cache")
    words = ["run.num_steps=3", "evaluation.path=", "rollout.prompts_per_step=4"]
    if where == "slurm":
        options = [
            "--nodes=2",
            "--gpus-per-node=0",
            "--nproc-per-node=1",
            "--partition=batch",
            "--wait",
        ]
    else:
        options = ["--nproc-per-node=1"]
    config = str(ROOT / "examples/tiny_sum/config.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.cli", "launch", where, *options, config, *words],
        cwd=run_dir,
        env={**cluster.env, "PATH": f"{HERE}:{cluster.env['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    run: Path = run_dir / "runs" / "tiny_sum"
    assert (run / "DONE").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 3
