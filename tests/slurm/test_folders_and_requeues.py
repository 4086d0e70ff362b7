"""Jobs that do not fight: over a folder, over a config, over a requeue that gains nothing. The shipped scripts on a
real Slurm with the stand-in trainer, which claims its folder and marks its end by the trainer's own functions: what is
held here is what the scripts make of that. Two owners of one folder with the real trainer:
test_real_trainer_on_slurm.py.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from slurm_cluster import ROOT
from test_slurm_scripts import output_of, submit


def test_a_job_that_is_warned_before_its_first_step_is_not_requeued(
    cluster, job_env, run_dir, tmp_path
):
    """Ten minutes, of which the script's own warning would take twenty. The signal is sent by hand: Slurm's comes up to
    a minute after the start."""
    env = job_env | {"STAND_IN_START_S": "3"}
    job_id = submit(cluster, env, nodes=1, options=("--time=10",))
    cluster.wait_for_file(run_dir / "start.0")

    cluster.run("scancel", "--batch", "--signal=USR1", str(job_id))

    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.restarts, job.exit_code) == ("FAILED", 0, "2:0"), text
    assert "--signal=B:USR1@1200 warns 1200 s before the time limit, and --time=00:10:00" in text
    assert "not requeued: warned before the first step of this job ended" in text
    assert "raise --time (now 00:10:00), or lower the seconds of --signal" in text
    marker = json.loads((run_dir / "STOPPED").read_text())
    assert (marker["step"], marker["steps_made"]) == (0, 0)


def test_a_folder_with_a_strange_name_holds_a_run_that_no_other_config_takes_for_its_own(
    cluster, job_env, run_dir, tmp_path
):
    job_env |= {"RUN_DIR": str(run_dir / "lr = 1e-6, 50%j")}

    def run(*words: str) -> tuple[str, str]:
        job_id = submit(cluster, job_env, *words, nodes=1, options=(f"--output={output}",))
        state = cluster.wait_for_job(job_id).state
        return state, output.read_text()

    output = tmp_path / "job.out"
    state, told = run()
    assert (state, "the run is DONE" in told) == ("COMPLETED", True), told
    logs = list(Path(job_env["RUN_DIR"]).glob("logs/job_*/restart_0/node_0.log"))
    assert "rank 0 of 1 starts at step 0" in logs[0].read_text()
    (Path(job_env["RUN_DIR"]) / "hf").mkdir()  # as the real trainer leaves it
    state, told = run("algorithm.name=grpo")
    assert (state, "algorithm.name was ar3po and is grpo now" in told) == ("FAILED", True), told
    state, told = run()
    assert (state, "is DONE already" in told) == ("COMPLETED", True), told


def test_each_task_of_an_array_writes_its_own_folder(cluster, job_env, run_dir):
    options = ("--array=1-2", "--output=/dev/null")
    job_id = submit(cluster, job_env, "run.seed=%a", nodes=1, options=options)
    folders = [run_dir.with_name(f"{run_dir.name}_{task}") for task in (1, 2)]
    cluster.wait_until(lambda: all((f / "DONE").exists() for f in folders), 60, "both are DONE")
    cluster.wait_until(cluster.is_idle, 60, f"the nodes of job {job_id} are free")
    for task, folder in enumerate(folders, start=1):
        assert f"\n  seed: {task}\n" in (folder / "resolved_config.yaml").read_text()


def test_a_layout_that_does_not_fit_the_jobs_nodes_ends_the_job_before_anything_is_written(
    cluster, job_env, run_dir, tmp_path
):
    job_id = submit(cluster, job_env, "rollout.prompts_per_step=2", nodes=3)
    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.exit_code) == ("FAILED", "2:0"), text
    assert "rollout.prompts_per_step=2 is below the data-parallel size 3" in text
    assert not run_dir.exists()


def test_where_the_host_has_no_python_that_reads_configs_the_container_is_asked(
    cluster, job_env, run_dir, tmp_path
):
    (tmp_path / "image.sqsh").touch()
    home, tools = tmp_path / "checkout", tmp_path / "bin"
    for folder in (home, tools):
        folder.mkdir()
    for name in ("examples", "launch_slurm", "megatron_ar3po"):
        (home / name).symlink_to(ROOT / name)
    (tools / "python3").write_text("#!/bin/bash\necho no module named yaml >&2; exit 1\n")
    (tools / "python3").chmod(0o755)
    job_env |= {
        "AR3PO_HOME": str(home),
        "CONTAINER_IMAGE": f"{tmp_path}/image.sqsh",
        "PATH": f"{tools}:/usr/bin:/bin",
        "PYTHON": sys.executable,
    }
    job_id = submit(cluster, job_env)
    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert job.state == "COMPLETED", text
    assert f"to stop and save: scancel --signal=USR1 {job_id}.1" in text
    assert (run_dir / "DONE").exists()


def nodes_of(cluster, job_id: int) -> str:
    shown = cluster.run("scontrol", "-o", "show", "job", str(job_id))
    return re.findall(r" NodeList=(\S+)", shown)[0]


def test_a_crash_is_started_again_once_without_its_node_and_takes_the_folder_over(
    cluster, job_env, run_dir, tmp_path
):
    """Rank 0 is gone without a word: its note in owner.json names node1 and is some seconds old, so on another node
    only the restart of the same job may take over. Rank 1 may be a step ahead of the last checkpoint."""
    env = job_env | {"STAND_IN_CRASH": "0:3", "MAX_CRASH_RESTARTS": "1", "STAND_IN_STEP_S": "0.5"}
    job_id = submit(cluster, env, "run.num_steps=6")
    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 1), text
    assert re.search(r"of node1: node1 failed first \(Exited with exit code 1\), [23] steps", text)
    assert "crash restart 1 of 1, without node1; requeueing" in text
    assert "node[1" not in nodes_of(cluster, job_id)
    second = (run_dir / f"logs/job_{job_id}/restart_1/node_0.log").read_text()
    assert "rank 0 of 2 starts at step 2" in second


def test_a_node_that_is_not_ready_is_left_out(cluster, job_env, run_dir, tmp_path):
    """Seven GPUs answer on node2, eight elsewhere. What no node could run: tests/unit/launch/test_failed_node.py."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        "#!/bin/bash\ncase $SLURMD_NODENAME in node2) n=7 ;; *) n=8 ;; esac\n"
        "for i in $(seq $n); do echo $i, 4; done\n"
    )
    smi.chmod(0o755)
    env = {"GPUS_PER_NODE": "8", "PATH": f"{smi.parent}:/usr/bin:/bin", "MAX_CRASH_RESTARTS": "2"}
    job_id = submit(cluster, job_env | env)
    job = cluster.wait_for_job(job_id)
    text = output_of(tmp_path, job_id)
    assert (job.state, job.restarts) == ("COMPLETED", 1), text
    assert "a crash of node2: not ready: 7 GPUs answer, but 8 ranks start here" in text
    assert nodes_of(cluster, job_id) in ("node[1,3]", "node[1,4]", "node[3-4]")
