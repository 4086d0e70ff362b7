"""The shipped scripts, unmodified, on a real Slurm of four nodes. The trainer is the stand-in beside this file, so what
is proven here is the launching: containers, signals, requeue, caps, failures. The real trainer has a file of its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from slurm_cluster import ROOT, SlurmCluster

ALGORITHMS = {"ar3po_32b.sh": "dapo", "ar3po_7b.sh": "history", "ar3po_llama8b.sh": "grpo"}
NODES = {"ar3po_32b.sh": 2, "ar3po_7b.sh": 1, "ar3po_llama8b.sh": 1}


def test_the_scripts_run_here_are_all_there_are():
    assert sorted(NODES) == sorted(f.name for f in (ROOT / "launch_slurm").glob("ar3po_*.sh"))


def output_of(folder: Path, job_id: int) -> str:
    return (folder / f"job-{job_id}.out").read_text()


def submit(
    cluster: SlurmCluster,
    env: dict[str, str],
    *words: str,
    script: str = "ar3po_32b.sh",
    nodes: int = 2,
    options: tuple[str, ...] = (),
) -> int:
    folder = Path(env["RUN_DIR"]).parent
    given = (f"--nodes={nodes}", f"--output={folder}/job-%j.out", *options)
    return cluster.sbatch(ROOT / "launch_slurm" / script, *words, options=given, env=env)


@pytest.mark.parametrize(("script", "nodes"), NODES.items())
def test_each_shipped_script_runs_in_a_container_to_done(
    script, nodes, cluster, job_env, run_dir, tmp_path
):
    image = tmp_path / "image.sqsh"
    image.touch()
    (tmp_path / "extra").mkdir()
    mounts = f"{tmp_path}/extra:/tmp/ar3po-extra:ro"
    job_env |= {
        "CONTAINER_IMAGE": str(image),
        "CONTAINER_MOUNTS": mounts,
        "ALGORITHM": ALGORITHMS[script],
    }

    job_id = submit(cluster, job_env, "run.num_steps=3", script=script, nodes=nodes)

    assert cluster.wait_for_job(job_id).state == "COMPLETED", output_of(tmp_path, job_id)
    assert (run_dir / "DONE").exists()
    logs = [f.read_text() for f in sorted(run_dir.glob(f"logs/job_{job_id}/restart_0/node_*.log"))]
    assert len(logs) == nodes
    for node, log in enumerate(logs):
        assert f"preflight: node node{node + 1}: ready" in log
        assert f"rank {node} of {nodes} starts at step 0" in log
        assert f"algorithm.name={ALGORITHMS[script]} model.path=" in log
        assert f"run.num_steps=3 run.dir={run_dir} run.resume=true" in log


def test_usr1_before_the_time_limit_saves_requeues_resumes_and_finishes(
    cluster, job_env, run_dir, tmp_path
):
    job_id = submit(cluster, job_env | {"STAND_IN_STEP_S": "1"}, "run.num_steps=8")
    cluster.wait_for_file(run_dir / "began.0")

    cluster.run("scancel", "--batch", "--signal=USR1", str(job_id))  # what --signal=B:USR1@S sends

    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 1), text
    assert "saved; requeueing" in text
    assert "the run is DONE" in text
    first, second = (run_dir / f"logs/job_{job_id}/restart_{n}/node_0.log" for n in (0, 1))
    stopped_at = int(first.read_text().rpartition("rank 0 stopped at step ")[2].split()[0])
    assert f"rank 0 of 2 starts at step {stopped_at}" in second.read_text()
    assert not list(run_dir.glob("stop.*"))


def test_requeueing_ends_at_max_restarts_with_the_run_saved(cluster, job_env, run_dir, tmp_path):
    job_id = submit(
        cluster,
        job_env | {"STAND_IN_STEP_S": "1", "MAX_RESTARTS": "0"},
        "run.num_steps=30",
        nodes=1,
    )
    cluster.wait_for_file(run_dir / "began.0")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job_id))
    job = cluster.wait_for_job(job_id)
    assert (job.state, job.restarts, job.exit_code) == ("FAILED", 0, "2:0")
    assert "MAX_RESTARTS=0 is reached; submit again to go on" in output_of(tmp_path, job_id)
    assert json.loads((run_dir / "STOPPED").read_text())["step"] >= 1


def test_usr1_to_the_step_stops_and_saves_without_a_requeue(cluster, job_env, run_dir, tmp_path):
    job_id = submit(cluster, job_env | {"STAND_IN_STEP_S": "1"}, "run.num_steps=30", nodes=1)
    cluster.wait_for_file(run_dir / "began.0")
    cluster.run("scancel", "--signal=USR1", f"{job_id}.0")
    job = cluster.wait_for_job(job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 0)
    assert "the run was stopped and is saved" in output_of(tmp_path, job_id)


def test_a_job_of_a_higher_partition_preempts_and_the_run_resumes_from_its_checkpoint(
    cluster, job_env, run_dir, tmp_path
):
    job_id = submit(cluster, job_env | {"STAND_IN_STEP_S": "1"}, "run.num_steps=12")
    cluster.wait_for_file(run_dir / "began.0")
    urgent = cluster.run("sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null",
                         "--wrap=sleep 2").strip()  # fmt: skip
    job = cluster.wait_for_job(job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 1), output_of(tmp_path, job_id)
    assert cluster.job(int(urgent)).state == "COMPLETED"
    second = (run_dir / f"logs/job_{job_id}/restart_1/node_0.log").read_text()
    assert int(second.partition("starts at step ")[2].split()[0]) >= 1
    assert (run_dir / "DONE").exists()


def test_one_crashed_rank_ends_the_job_non_zero_and_shows_its_log(
    cluster, job_env, run_dir, tmp_path
):
    job_id = submit(cluster, job_env | {"STAND_IN_CRASH": "1:2"}, "run.num_steps=200")
    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.restarts) == ("FAILED", 0), text
    assert job.exit_code != "0:0"
    assert "rank 1 crashes at step 2" in text
    assert "the run failed (ar3po status" in text


def test_a_node_with_a_lost_gpu_ends_the_job_at_once_and_is_named(
    cluster, job_env, run_dir, tmp_path
):
    """`nvidia-smi` is pretended: eight GPUs answer on node1, seven on node2."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        "#!/bin/bash\nfor i in $(seq $([ $SLURMD_NODENAME = node2 ] && echo 7 || echo 8)); do echo $i, 4; done\n"
    )
    smi.chmod(0o755)
    job_env |= {"GPUS_PER_NODE": "8", "PATH": f"{smi.parent}:/usr/bin:/bin"}

    job_id = submit(cluster, job_env, "run.num_steps=1000")

    job = cluster.wait_for_job(job_id, timeout_s=30)
    text = output_of(tmp_path, job_id)
    assert job.state == "FAILED", text
    # The job may end before node1 has looked at itself: it is never blamed, and need not be "ready".
    assert "preflight: node node1: 7 GPUs" not in text
    assert not re.search(r"node node1: .*(drain|mend|lower|end the process)", text), text
    assert "preflight: node node2: 7 GPUs answer, but 8 ranks start here; drain the node" in text


def test_scancel_saves_within_slurms_kill_wait_and_leaves_no_process(cluster, job_env, run_dir):
    """SIGTERM, here to every process of the step, and 5 s later SIGKILL: the step of 1 s ends, and the run saves."""
    job_id = submit(cluster, job_env | {"STAND_IN_STEP_S": "1"}, "run.num_steps=200")
    cluster.wait_for_file(run_dir / "began.0")
    cluster.run("scancel", str(job_id))
    assert cluster.wait_for_job(job_id).state == "CANCELLED"
    assert json.loads((run_dir / "STOPPED").read_text())["step"] >= 1
    assert not (run_dir / "DONE").exists()


def test_without_pyxis_or_with_a_wrong_variable_the_job_says_what_to_do(
    cluster, job_env, run_dir, tmp_path
):
    refusals = {
        "ALGORITHM=ppo is unknown; use ar3po, grpo, dapo or history": {"ALGORITHM": "ppo"},
        "GPUS_PER_NODE=16, but Slurm gave 8 a node": {"GPUS_PER_NODE": "16"},
        "CONFIG=nowhere.yaml is no file": {"CONFIG": "nowhere.yaml"},
        "CONTAINER_IMAGE=/nowhere.sqsh cannot be read": {"CONTAINER_IMAGE": "/nowhere.sqsh"},
        "is DONE already": {},
    }
    (run_dir / "hf").mkdir(parents=True)  # a run that is DONE has exported its policy
    (run_dir / "DONE").write_text('{"step": 4, "policy_version": 4}')
    for message, env in refusals.items():
        other = run_dir if not env else tmp_path / message[:8]
        job_id = submit(cluster, job_env | env | {"RUN_DIR": str(other)}, nodes=1)
        job = cluster.wait_for_job(job_id)
        assert message in (other.parent / f"job-{job_id}.out").read_text()
        assert job.exit_code == ("2:0" if env else "0:0")
