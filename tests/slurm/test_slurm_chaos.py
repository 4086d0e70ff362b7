"""The long and the destructive forms: Slurm's own warning and time limit at their own time, a node that dies, a rank
that hangs, and the real trainer under NeMo-Run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import ENDED, HERE, ROOT
from test_real_trainer_on_slurm import NO_MODEL, TINY, env_of_real_run, steps_of

from megatron_ar3po.distributed.rank_status import read_statuses

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


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


def test_a_time_limit_that_no_save_precedes_ends_the_job_for_good(
    cluster, job_env, run_dir, tmp_path
):
    """The first step is longer than the job: warned in vain, ended at the limit, not requeued."""
    options = ["--nodes=2", "--time=1", "--signal=B:USR1@20", f"--output={tmp_path}/job-%j.out"]
    env = job_env | {"STAND_IN_STEP_S": "600"}
    script = ROOT / "launch_slurm" / "ar3po_32b.sh"
    job_id = cluster.sbatch(script, "run.num_steps=3", options=options, env=env)
    job = cluster.wait_for_job(job_id, timeout_s=240)
    assert (job.state, job.restarts) == ("TIMEOUT", 0)
    assert "USR1: asking the trainer to stop" in (tmp_path / f"job-{job_id}.out").read_text()
    assert not (run_dir / "DONE").exists()


def test_a_node_that_dies_costs_a_restart_on_the_others(cluster, job_env, run_dir, tmp_path):
    options = ["--nodes=2", f"--output={tmp_path}/job-%j.out"]
    env = job_env | {"STAND_IN_STEP_S": "1"}
    script = ROOT / "launch_slurm" / "ar3po_32b.sh"
    job_id = cluster.sbatch(script, "run.num_steps=12", options=options, env=env)
    cluster.wait_for_file(run_dir / "began.0")
    cluster.kill_node("node2")
    try:
        cluster.wait_until(lambda: cluster.job(job_id).state in ENDED, 120, "the job ends")
    finally:
        cluster.start_node("node2")
        cluster.run("scontrol", "update", "nodename=node2", "state=resume")
    job = cluster.wait_for_job(job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 1), (
        tmp_path / f"job-{job_id}.out"
    ).read_text()
    second = (run_dir / f"logs/job_{job_id}/restart_1/node_0.log").read_text()
    assert int(second.partition("starts at step ")[2].split()[0]) >= 1
    assert (run_dir / "DONE").exists()


def test_a_rank_that_hangs_is_named_with_its_node_which_the_next_start_leaves_out(
    cluster, job_env, run_dir, tmp_path
):
    """The real trainer on two nodes; rank 1's process is frozen in the middle of a step. The others' time limit ends
    the job, and it starts again."""
    if not (TINY / "model" / "config.json").is_file():
        pytest.skip(NO_MODEL)
    job_env = env_of_real_run(job_env) | {"MAX_CRASH_RESTARTS": "1"}
    words = ["run.num_steps=100000", "run.stall_report_s=10", "run.collective_timeout_s=75"]
    options = ["--nodes=2", f"--output={tmp_path}/job-%j.out"]
    script = ROOT / "launch_slurm" / "ar3po_32b.sh"
    job_id = cluster.sbatch(script, *words, options=options, env=job_env)
    cluster.wait_until(lambda: 1 in steps_of(run_dir), 400, "the first step ends")
    frozen = read_statuses(run_dir / "status")[1].pid

    os.kill(frozen, signal.SIGSTOP)

    second = run_dir / f"logs/job_{job_id}/restart_1/node_0.log"
    cluster.wait_until(lambda: cluster.job(job_id).restarts == 1, 400, "it is requeued")
    cluster.wait_until(
        lambda: second.exists() and "ready after" in second.read_text(), 400, "it goes on"
    )
    hosts = [s.host for s in read_statuses(run_dir / "status")]
    cluster.run("scancel", str(job_id))
    cluster.wait_for_job(job_id)
    told = (tmp_path / f"job-{job_id}.out").read_text()
    assert f"a crash of node2: the others waited for rank 1 (node2, pid {frozen})" in told
    assert "crash restart 1 of 1, without node2; requeueing" in told
    assert len(hosts) == 2 and "node2" not in hosts
    log = (run_dir / f"logs/job_{job_id}/restart_0/node_0.log").read_text()
    assert (
        f"1 rank waits for rank 1 (node2, pid {frozen})"
        in log.partition("waiting for all ranks")[2]
    )
    error = log.partition("ar3po: error: ")[2].splitlines()[0]
    assert "a collective of rank 0 with all ranks failed: Timed out" in error
    assert f"rank 1 (node2, pid {frozen}): not heard of for" in error


@pytest.mark.parametrize("where", ["local", "slurm"])
def test_nemo_run_trains_the_tiny_example_with_the_real_trainer(where, cluster, run_dir):
    if not (TINY / "model" / "config.json").is_file():
        pytest.skip(NO_MODEL)
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
