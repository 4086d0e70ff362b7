"""What two nodes of a real Slurm say before a run starts, and how a node that is not ready ends the job. The nodes are
this machine; their network is loopback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from slurm_cluster import ROOT

SCRIPT = ROOT / "launch_slurm/ar3po_7b.sh"


def node_logs(run_dir: Path) -> str:
    return "".join(file.read_text() for file in sorted(run_dir.glob("logs/job_*/restart_0/*.log")))


def submit(cluster, tmp_path: Path, env: dict[str, str]):
    """(the job at its end, what its batch script said)."""
    output = tmp_path / "job.out"
    job_id = cluster.sbatch(SCRIPT, "run.num_steps=1", env=env,
                            options=["--nodes=2", f"--output={output}"])  # fmt: skip
    return cluster.wait_for_job(job_id, 180), output.read_text()


def test_each_node_tells_its_figures_and_the_first_the_networks(
    cluster, job_env, run_dir, tmp_path
):
    job, _ = submit(cluster, tmp_path, job_env | {"AR3PO_ALL_REDUCE_MIB": "4"})
    assert job.state == "COMPLETED"
    logs = node_logs(run_dir)
    size, count = r"[\d.,]+ [KMGT]?i?B", r"(\d+|unlimited)"
    for node in ("node1", "node2"):
        for line in (
            rf"disk: {size} free in {run_dir}",
            rf"/dev/shm: {size} free of {size}",
            rf"ulimit -n: {count} \(at most {count}\)",
            rf"ulimit -l: ({size}|unlimited)(, which does not bind \(CAP_IPC_LOCK\))?",
            r"clock: [+-]\d+\.\d\d s from the file server's",
            "ready",
        ):
            assert re.search(rf"^preflight: node {node}: {line}$", logs, re.MULTILINE), line
    found = re.findall(
        r"^preflight: node (node\d): network: 4 MiB reduced over 2 nodes, 2 ranks \(gloo\) in ([\d.]+) ms, "
        r"([\d.]+) GB/s; their clocks are within ([\d.]+) s$",
        logs,
        re.MULTILINE,
    )
    (first,) = found
    assert first[0] == "node1"
    assert float(first[1]) > 0 and float(first[2]) > 0
    assert float(first[3]) < 1  # one machine has one clock


@pytest.mark.chaos
def test_a_network_that_is_not_there_ends_the_job_before_any_rank_starts(
    cluster, job_env, run_dir, tmp_path
):
    env = job_env | {"AR3PO_ALL_REDUCE_MIB": "4", "GLOO_SOCKET_IFNAME": "bond7"}
    job, said = submit(cluster, tmp_path, env)
    assert job.state == "FAILED"
    assert "an all-reduce over 2 nodes failed with code" in said and "bond7" in said
    assert "starts at step" not in node_logs(run_dir)


def test_a_node_with_other_code_than_was_submitted_ends_the_job(
    cluster, job_env, run_dir, tmp_path
):
    job, said = submit(cluster, tmp_path, job_env | {"AR3PO_CODE": "0.1.0/abc/0123456789ab"})
    assert job.state == "FAILED"
    assert re.search(r"preflight: node node[12]: this node runs 0\.\S+ from \S+, but the job was submitted with "
                     r"0\.1\.0/abc/0123456789ab", said)  # fmt: skip
    assert "starts at step" not in node_logs(run_dir)
