"""What a user tells sbatch beside the script's own lines: arrays, --export, a scancel behind a warning, a container
that does not show slurmd's folder. The shipped scripts on a real Slurm with the stand-in trainer.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from slurm_cluster import ROOT
from test_slurm_scripts import output_of, submit


def test_a_task_of_an_array_requeues_itself_alone(cluster, job_env, run_dir, tmp_path):
    """One task has the array's own number as its job's, by which Slurm means all of them."""
    options = ("--array=1-2",)
    env = job_env | {"STAND_IN_STEP_S": "1"}
    array = submit(cluster, env, "run.seed=%a", "run.num_steps=8", nodes=1, options=options)
    folders = {task: run_dir.with_name(f"{run_dir.name}_{task}") for task in "12"}
    for folder in folders.values():
        cluster.wait_for_file(folder / "began.0")
    shown = cluster.run("scontrol", "-o", "show", "job", str(array))
    (task,) = re.findall(rf"^JobId={array} ArrayJobId={array} ArrayTaskId=(\d)", shown, re.M)
    (other,) = set("12") - {task}

    cluster.run("scancel", "--batch", "--signal=USR1", f"{array}_{task}")

    cluster.wait_until(lambda: all((f / "DONE").exists() for f in folders.values()), 60, "DONE")
    cluster.wait_until(cluster.is_idle, 60, f"the nodes of job {array} are free")
    starts = {t: len(list(f.glob("logs/job_*/restart_*"))) for t, f in folders.items()}
    text = output_of(tmp_path, array)
    assert starts == {task: 2, other: 1}, text
    assert f"to stop and save: scancel --signal=USR1 {array}_{task}.0" in text


def test_variables_that_sbatch_does_not_export_reach_the_nodes_all_the_same(
    cluster, job_env, run_dir, tmp_path
):
    """`sbatch --export=A=B` tells the srun of the job to hand on A alone: no MASTER_ADDR."""
    given = ",".join(f"{name}={value}" for name, value in job_env.items())
    job_id = submit(cluster, job_env, "run.num_steps=2", options=(f"--export={given}",))
    job = cluster.wait_for_job(job_id)
    assert job.state == "COMPLETED", output_of(tmp_path, job_id)
    assert (run_dir / "DONE").exists()


def test_a_job_that_is_cancelled_after_its_warning_is_not_requeued(
    cluster, job_env, run_dir, tmp_path
):
    env = job_env | {"STAND_IN_STEP_S": "2"}
    job_id = submit(cluster, env, "run.num_steps=8", nodes=1)
    cluster.wait_for_file(run_dir / "began.0")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job_id))
    cluster.wait_until(lambda: bool(list(run_dir.glob("stop.*"))), 20, "the warning has come")

    cluster.run("scancel", str(job_id))

    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.restarts) == ("CANCELLED", 0), text
    assert "the run was stopped and is saved" in text, text


def test_a_container_that_is_asked_need_not_see_the_batch_script(
    cluster, job_env, run_dir, tmp_path
):
    """It lies in slurmd's spool on the node, which no image has."""
    (tmp_path / "image.sqsh").touch()
    home, tools, empty = tmp_path / "checkout", tmp_path / "bin", tmp_path / "empty"
    for folder in (home, tools, empty):
        folder.mkdir()
    for name in ("examples", "launch_slurm", "megatron_ar3po"):
        (home / name).symlink_to(ROOT / name)
    (tools / "python3").write_text("#!/bin/bash\nexit 1\n")
    (tools / "python3").chmod(0o755)
    job_env |= {
        "AR3PO_HOME": str(home),
        "CONTAINER_IMAGE": f"{tmp_path}/image.sqsh",
        "CONTAINER_MOUNTS": f"{empty}:{cluster.root}/spool",
        "PATH": f"{tools}:/usr/bin:/bin",
        "PYTHON": sys.executable,
    }
    job_id = submit(cluster, job_env, "run.num_steps=2", nodes=1)
    job = cluster.wait_for_job(job_id)
    assert job.state == "COMPLETED", output_of(tmp_path, job_id)
    assert Path(run_dir / "DONE").exists()
