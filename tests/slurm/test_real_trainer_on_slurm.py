"""The real trainer - Megatron-Core on gloo over two nodes, an SGLang server on each - started by the shipped script of
the 32B example with overrides that make it small. Not exercised: GPUs, NCCL, tensor parallelism across processes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from slurm_cluster import ROOT

from megatron_ar3po.distributed.rank_status import read_statuses

TINY = ROOT / ".cache" / "tiny_sum"
NO_MODEL = "no tiny model; make it with: python tools/make_tiny_model.py --out .cache/tiny_sum"
STEPS = 30  # so many that the warning comes before the last
SMALL = [
    f"run.num_steps={STEPS}",
    "model.dtype=float32",
    "data.apply_chat_template=false",
    "data.template=raw",
    "data.max_prompt_tokens=8",
    "rewards.verifier=last_number",
    "rewards.num_workers=1",
    "rollout.prompts_per_step=4",
    "rollout.max_response_tokens=6",
    "servers.max_total_tokens=8192",
    "servers.sglang.mem_fraction_static=0.5",
    "algorithm.num_mini_batches=1",
    "actor.tensor_parallel_size=1",
    "actor.sequence_parallel=false",
    "actor.max_tokens_per_microbatch=2048",
    "actor.recompute=none",
    "evaluation.path=",
    "checkpoint.every_steps=0",
]


def steps_of(run_dir: Path) -> list[int]:
    """Of the lines that are whole; the trainer may be writing."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


@pytest.mark.timeout(900)
def test_the_32b_script_trains_on_two_nodes_is_warned_requeued_and_resumes_to_done(
    cluster, job_env, run_dir, tmp_path
):
    if not (TINY / "model" / "config.json").is_file():
        pytest.skip(NO_MODEL)
    del job_env["AR3PO_TRAINER"], job_env["EVAL_PATH"]
    job_env |= {"MODEL_PATH": f"{TINY}/model", "DATA_PATH": f"{TINY}/train.jsonl", "PYTHONPATH": ""}
    script = ROOT / "launch_slurm" / "ar3po_32b.sh"
    options = ["--nodes=2", f"--output={tmp_path}/job-%j.out"]
    job_id = cluster.sbatch(script, *SMALL, options=options, env=job_env)
    cluster.wait_until(lambda: 1 in steps_of(run_dir), 400, "the first step ends")

    ranks = read_statuses(run_dir / "status")
    assert [(r.rank, r.host, r.end) for r in ranks] == [(0, "node1", ""), (1, "node2", "")]

    cluster.run("scancel", "--batch", "--signal=USR1", str(job_id))

    job = cluster.wait_for_job(job_id, timeout_s=600)
    told = (tmp_path / f"job-{job_id}.out").read_text()
    assert (job.state, job.restarts) == ("COMPLETED", 1), told
    assert (run_dir / "DONE").exists()
    assert steps_of(run_dir)[-STEPS:] == list(range(1, STEPS + 1))
    resumed = (run_dir / f"logs/job_{job_id}/restart_1/node_0.log").read_text()
    saved_at = int(resumed.partition("checkpoints/step_")[2][:5])
    assert 1 <= saved_at < STEPS
    assert f"(step {saved_at}, policy version {saved_at})" in resumed
    assert "the run is DONE" in told
    shown = cluster.run(sys.executable, "-m", "megatron_ar3po.cli", "status", str(run_dir))
    assert "2 of 2 ranks on 2 nodes, 30 steps done" in shown
    assert shown.rstrip().endswith("the run is DONE")
