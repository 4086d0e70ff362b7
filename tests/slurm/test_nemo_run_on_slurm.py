"""`ar3po launch slurm` on a real Slurm. The trainer is the stand-in beside this file; `sacct` is answered from
scontrol, because the cluster keeps no accounting.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.login_node import serve_ssh
from harness.nemo_command import run_nemo
from slurm_cluster import HERE, ROOT


def launch(
    cluster,
    env: dict[str, str],
    folder: Path,
    *words: str,
    config: Path = ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml",
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_ar3po.cli", "launch", "slurm"]
    data = [f"data.path={env['DATA_PATH']}", f"evaluation.path={env['EVAL_PATH']}"]
    options = ["--nodes=2", "--gpus-per-node=0", "--nproc-per-node=1", "--partition=batch"]
    return subprocess.run(
        [*command, *options, str(config), f"model.path={env['MODEL_PATH']}", *data, *words],
        cwd=folder,
        env={**cluster.env, "PATH": f"{HERE}:{os.environ['PATH']}", **env},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_sweep_started_by_nemo_run_succeeds_on_two_nodes(cluster, job_env, run_dir, tmp_path):
    (tmp_path / "image.sqsh").touch()
    image = [f"--container-image={tmp_path}/image.sqsh", f"--container-mount={ROOT}:{ROOT}"]
    run_dir.mkdir()

    done = launch(cluster, job_env, run_dir, "run.num_steps=2", "--vary=run.seed=1,2", "--wait", "--code=files",
                  *image, f"--python={sys.executable}", "--env=NOTE=a b", "--qos=", "--srun=--label",
                  "--sbatch=comment=spring")  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    for seed in (1, 2):
        assert (run_dir / f"runs/qwen2.5_7b_seed_{seed}/DONE").exists()
    logs = "".join(f.read_text() for f in run_dir.rglob("log-*.out"))
    assert "rank 1 of 2 starts at step 0" in logs
    assert "preflight: node node2: ready" in logs
    # Each job has a snapshot of the code, unpacked where the container looks, and all its processes run that one:
    # PYTHONPATH of this test names the checkout too.
    assert len(list(run_dir.glob("runs/nemo/experiments/*/*/*/code/megatron_ar3po"))) == 2
    nodes = re.findall(r"0: preflight: node node\d: code: megatron_ar3po .* in (\S+)", logs)
    assert nodes == ["/nemo_run/code"] * 2
    assert re.findall(r"rank 1 runs the code in (\S+)", logs) == ["/nemo_run/code"] * 2


def test_nemos_own_commands_start_follow_and_cancel_a_run(cluster, job_env, run_dir):
    """As docs/nemo_run.md has it. NeMo-Run asks `sacct`; here it is answered from scontrol."""
    run_dir.mkdir()
    env = {**cluster.env, **job_env, "STAND_IN_STEP_S": "1", "PATH": f"{HERE}:{os.environ['PATH']}"}
    files = {"model.path": "MODEL_PATH", "data.path": "DATA_PATH", "evaluation.path": "EVAL_PATH"}
    words = [f"{option}={env[name]}" for option, name in files.items()]
    executor = ["=ar3po_slurm", ".account=rl", ".partition=batch", ".nodes=2", ".gpus_per_node=0"]
    words += ["actor.tensor_parallel_size=1", "actor.sequence_parallel=false", "run.num_steps=80"]
    words += [f"run.executor{word}" for word in executor]

    def nemo(*words: str) -> str:
        done = run_nemo(*words, folder=run_dir, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    nemo("ar3po", "train", "--factory", "ar3po_7b", *words, "run.name=mine", "nproc_per_node=1", "gpus_per_node=0",
         "--yes", "--detach")  # fmt: skip
    job_id = int(cluster.run("squeue", "-h", "-o", "%i").split()[0])
    cluster.wait_for_file(run_dir / "runs/mine/began.0")
    status = nemo("experiment", "status", "mine")
    assert "Status: RUNNING" in status and f"Job id: {job_id}" in status
    nemo("experiment", "cancel", "mine")

    assert cluster.wait_for_job(job_id).state in ("CANCELLED", "COMPLETED")
    assert not (run_dir / "runs/mine/DONE").exists()
    assert "rank 1 of 2 starts at step 0" in "".join(
        f.read_text() for f in run_dir.rglob("log-*.out")
    )


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


@pytest.mark.chaos
def test_a_run_is_submitted_through_a_login_node(cluster, job_env, run_dir, tmp_path):
    """By NeMo-Run's SSH tunnel, to a server on loopback. The submitting folder and the nodes' share nothing: code and
    config travel."""
    here, shared, bin_folder = tmp_path / "laptop", run_dir, tmp_path / "bin"
    for folder in (here, shared, bin_folder):
        folder.mkdir()
    config = here / "mine.yaml"
    config.write_text((ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml").read_text())
    session = {
        **job_env,
        "SLURM_CONF": cluster.env["SLURM_CONF"],
        "PATH": f"{HERE}:{os.environ['PATH']}",
    }
    with serve_ssh(tmp_path, session) as login:
        ssh = bin_folder / "ssh"  # rsync's, which would read this user's known hosts
        known = f"-o UserKnownHostsFile={tmp_path}/known -o StrictHostKeyChecking=accept-new"
        ssh.write_text(f'#!/bin/bash\nexec /usr/bin/ssh {known} "$@"\n')
        ssh.chmod(0o755)
        done = launch(
            cluster,
            job_env | {"PATH": f"{bin_folder}:{os.environ['PATH']}"},
            here,
            *(
                "run.num_steps=2",
                f"--ssh={login.address}",
                f"--ssh-key={login.key}",
                f"--workdir={shared}",
            ),
            *("--code=files", f"--python={sys.executable}", "--wait"),
            config=config,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (shared / "runs/qwen2.5_7b/DONE").exists()
    logs = "".join(f.read_text() for f in shared.rglob("log-*.out"))
    (code,) = set(re.findall(r"rank [01] runs the code in (\S+)", logs))
    assert code.startswith(f"{shared}/runs/nemo/") and code.endswith("/code")
    assert not list(here.rglob("log-*.out"))
