"""`ar3po launch slurm` on a real Slurm. The trainer is the stand-in beside this file; `sacct` is answered from
scontrol, because the cluster keeps no accounting.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from slurm_cluster import HERE, ROOT


def launch(
    cluster, env: dict[str, str], folder: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_ar3po.cli", "launch", "slurm"]
    config = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
    data = [f"data.path={env['DATA_PATH']}", f"evaluation.path={env['EVAL_PATH']}"]
    options = ["--nodes=2", "--gpus-per-node=0", "--nproc-per-node=1", "--partition=batch"]
    return subprocess.run(
        [*command, *options, config, f"model.path={env['MODEL_PATH']}", *data, *words],
        cwd=folder,
        env={**cluster.env, **env, "PATH": f"{HERE}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_sweep_started_by_nemo_run_succeeds_on_two_nodes(cluster, job_env, run_dir, tmp_path):
    (tmp_path / "image.sqsh").touch()
    image = [f"--container-image={tmp_path}/image.sqsh", f"--container-mount={ROOT}:{ROOT}"]
    run_dir.mkdir()

    done = launch(cluster, job_env, run_dir, "run.num_steps=2", "--vary=run.seed=1,2", "--wait",
                  *image, f"--python={sys.executable}")  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    for seed in (1, 2):
        assert (run_dir / f"runs/qwen2.5_7b_seed_{seed}/DONE").exists()
    logs = "".join(f.read_text() for f in run_dir.rglob("log-*.out"))
    assert "rank 1 of 2 starts at step 0" in logs
    assert "preflight: node node2: ready" in logs


def test_a_chained_ablation_runs_one_after_the_other(cluster, job_env, run_dir):
    """All four nodes are free: only the chain keeps the second from starting at once."""
    run_dir.mkdir()
    done = launch(cluster, job_env | {"STAND_IN_STEP_S": "1"}, run_dir, "run.num_steps=4",
                  "--vary=algorithm.name=ar3po,grpo", "--chain", "--wait")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (run_dir / f"runs/qwen2.5_7b_name_{name}" for name in ("ar3po", "grpo"))
    assert (second / "start.0").stat().st_mtime > (first / "DONE").stat().st_mtime
    assert (second / "DONE").exists()


def test_nemo_runs_job_saves_before_its_time_limit_is_requeued_and_finishes(
    cluster, job_env, run_dir, tmp_path
):
    """Slurm's own warning is slow and imprecise; its signal is sent by hand to the step, as it would be."""
    run_dir.mkdir()
    done = launch(cluster, job_env | {"STAND_IN_STEP_S": "1"}, run_dir, "run.num_steps=80")
    assert done.returncode == 0, done.stdout + done.stderr
    job_id = int(cluster.run("squeue", "-h", "-o", "%i").split()[0])
    run = run_dir / "runs/qwen2.5_7b"
    cluster.wait_for_file(run / "began.0")
    steps = cluster.run("squeue", "-h", "-s", "-j", str(job_id), "-o", "%i").split()
    (step,) = [s for s in steps if s.rpartition(".")[2].isdigit()]

    cluster.run("scancel", "--signal=USR1", step)

    job = cluster.wait_for_job(job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 1)
    assert (run / "DONE").exists()


def test_nemo_run_starts_a_sweep_on_this_machine_and_waits_for_it(job_env, run_dir):
    run_dir.mkdir()
    config = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
    words = [
        f"model.path={job_env['MODEL_PATH']}",
        f"data.path={job_env['DATA_PATH']}",
        "evaluation.path=",
    ]
    command = [sys.executable, "-m", "megatron_ar3po.cli", "launch", "local", config, *words]
    done = subprocess.run(
        [*command, "run.num_steps=2", "--nproc-per-node=2"],
        cwd=run_dir,
        env={**os.environ, **job_env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 1 of 2 starts at step 0" in done.stdout
    assert (run_dir / "runs/qwen2.5_7b/DONE").exists()
