"""The real trainer - Megatron-Core on gloo over two nodes, an SGLang server on each - started by the shipped script of
the 32B example with overrides that make it small. Not exercised: GPUs, NCCL, tensor parallelism across processes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import ROOT, SlurmCluster

from megatron_ar3po.distributed.rank_status import read_statuses

TINY = ROOT / ".cache" / "tiny_sum"
NO_MODEL = "no tiny model; make it with: python tools/make_tiny_model.py --out .cache/tiny_sum"
STEPS = 30  # so many that the warning comes before the last


def env_of_real_run(job_env: dict[str, str]) -> dict[str, str]:
    """The scripts with PROFILE=cpu and nothing else: its model, its prompts."""
    ours = ("AR3PO_TRAINER", "MODEL_PATH", "DATA_PATH", "EVAL_PATH")
    return {k: v for k, v in job_env.items() if k not in ours} | {"PYTHONPATH": ""}


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """Of the lines that are whole; the trainer may be writing."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_of(run_dir: Path) -> list[int]:
    return [row["step"] for row in metrics_of(run_dir)]


def policy_version_after(run_dir: Path, step: int) -> int:
    """A step in which every prompt is solved, or none, trains nothing: the policy stays the one it was."""
    return sum("actor/loss" in row for row in metrics_of(run_dir) if row["step"] <= step)


CLAIM = """
import sys
from pathlib import Path
from megatron_ar3po.folder_owner import FolderOwner, FolderOwnedError
try:
    FolderOwner.claim(Path(sys.argv[1]))
except FolderOwnedError as error:
    print(error)
"""


def assert_refused_on_other_nodes(
    cluster: SlurmCluster, script: Path, env: dict[str, str], run_dir: Path, job_id: int
) -> None:
    """A second job with the same folder, and what its trainer would do if both came at one moment."""
    output = run_dir.parent / "second.out"
    second = cluster.sbatch(script, options=["--nodes=1", f"--output={output}"], env=env)
    cluster.wait_until(lambda: cluster.job(second).state == "FAILED", 60, "the second is refused")
    owner = (
        rf"run.dir={run_dir} has an owner \(its owner.json\): process \d+ on node1, job {job_id}"
    )
    assert re.search(owner, output.read_text()), output.read_text()
    words = ("srun", "--nodes=1", "--nodelist=node4", sys.executable, "-c", CLAIM, str(run_dir))
    told = cluster.run(*words, env={"PYTHONPATH": str(ROOT)})
    assert re.match(rf"{owner}, since .* \(heard of \d+ s ago; after 60 s", told), told
    assert cluster.job(job_id).state == "RUNNING"


@pytest.mark.timeout(900)
def test_the_32b_script_trains_on_two_nodes_is_warned_requeued_and_resumes_to_done(
    cluster, job_env, run_dir, tmp_path
):
    """Meanwhile a second job with its folder, on another node, is refused; the requeue goes on where node1 is not."""
    if not (TINY / "model" / "config.json").is_file():
        pytest.skip(NO_MODEL)
    job_env = env_of_real_run(job_env)
    script = ROOT / "launch_slurm" / "ar3po_32b.sh"
    options = ["--nodes=2", f"--output={tmp_path}/job-%j.out"]
    words = [f"run.num_steps={STEPS}"]
    job_id = cluster.sbatch(script, *words, options=options, env=job_env)
    cluster.wait_for_file(run_dir / "owner.json", 120)
    assert_refused_on_other_nodes(cluster, script, job_env, run_dir, job_id)
    cluster.wait_until(lambda: 1 in steps_of(run_dir), 400, "the first step ends")

    ranks = read_statuses(run_dir / "status")
    assert [(r.rank, r.host, r.end) for r in ranks] == [(0, "node1", ""), (1, "node2", "")]

    cluster.run("scancel", "--batch", "--signal=USR1", str(job_id))

    cluster.wait_until(lambda: cluster.job(job_id).state == "PENDING", 200, "it is requeued")
    cluster.run("scontrol", "update", f"JobId={job_id}", "ExcNodeList=node1")
    job = cluster.wait_for_job(job_id, timeout_s=600)
    told = (tmp_path / f"job-{job_id}.out").read_text()
    assert (job.state, job.restarts) == ("COMPLETED", 1), told
    assert (run_dir / "DONE").exists()
    assert [r.host for r in read_statuses(run_dir / "status")] == ["node2", "node3"]
    assert steps_of(run_dir)[-STEPS:] == list(range(1, STEPS + 1))
    resumed = (run_dir / f"logs/job_{job_id}/restart_1/node_0.log").read_text()
    saved_at = int(resumed.partition("checkpoints/step_")[2][:5])
    assert 1 <= saved_at < STEPS
    version = policy_version_after(run_dir, saved_at)
    assert version >= 1
    assert f"(step {saved_at}, policy version {version})" in resumed
    assert "the run is DONE" in told
    shown = cluster.run(sys.executable, "-m", "megatron_ar3po.cli", "status", str(run_dir))
    assert "2 of 2 ranks on 2 nodes, 30 steps done" in shown
    assert shown.rstrip().endswith("the run is DONE")
