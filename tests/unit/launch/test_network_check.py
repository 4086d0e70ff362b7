"""What is made of the all-reduce over all nodes. The program is a stand-in here; the real one runs on two nodes in
tests/slurm/test_preflight_on_slurm.py."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from megatron_ar3po.launch.arguments import Rendezvous
from megatron_ar3po.launch.network_check import describe, read_mib, read_network

NODE = Rendezvous(num_nodes=2, node_rank=0, master_addr="node1", master_port=29400)
MEASURED = {"seconds": 0.002, "num_bytes": 256 * 2**20, "num_ranks": 16, "backend": "nccl",
            "clocks_ahead_s": {"node1": 0.0, "node2": -0.004}}  # fmt: skip


def read(script: str, *, meet_s: float = 60, reduce_s: float = 60):
    program = [sys.executable, "-c", script]
    return read_network(
        NODE, ranks_per_node=1, gpus=0, meet_s=meet_s, reduce_s=reduce_s, program=program
    )


def test_bandwidth_is_counted_as_nccls_tests_do():
    """256 MiB in 2 ms are 134.2 GB/s; of 16 ranks each sends 2 x 15/16 of it: 251.66 GB/s."""
    reading = describe(MEASURED, NODE)
    assert reading.text == (
        "network: 256 MiB reduced over 2 nodes, 16 ranks (nccl) in 2.0 ms, 251.66 GB/s; their clocks are within 0.004 s"
    )
    assert reading.problem == ""


def test_two_clocks_that_are_seven_seconds_apart_are_told_with_both_names():
    reading = describe({**MEASURED, "clocks_ahead_s": {"node1": 0.0, "node2": -7.0}}, NODE)
    assert reading.problem.startswith("the clock of node1 is 7 s ahead of that of node2; restart")


def test_nodes_that_do_not_meet_are_told_with_the_address():
    began = time.monotonic()
    reading = read("import time; time.sleep(60)", meet_s=0.5)
    assert time.monotonic() - began < 20
    assert reading.problem.startswith(
        "the 2 nodes did not meet at node1:29401 within 0 s; name the"
    )
    assert "GLOO_SOCKET_IFNAME" in reading.problem and "AR3PO_ALL_REDUCE_MIB=0" in reading.problem


def test_an_all_reduce_that_hangs_ends_at_its_own_limit():
    script = "print('met', flush=True); import time; time.sleep(60)"
    reading = read(script, meet_s=60, reduce_s=0.5)
    assert reading.problem.startswith(
        "the 2 nodes met, but their all-reduce did not end within 0 s"
    )


def test_a_failed_all_reduce_is_told_with_the_end_of_its_output():
    reading = read("import sys; print('x' * 900, 'Connection refused'); sys.exit(7)")
    assert "over 2 nodes failed with code 7 (... " in reading.problem
    assert " Connection refused); " in reading.problem and len(reading.problem) < 800


def test_what_nccl_says_behind_the_figures_is_passed_over():
    """Of NCCL_DEBUG=INFO it speaks last."""
    said = json.dumps(MEASURED)
    reading = read(
        f"print('met'); print('NCCL INFO x'); print({said!r}); print('NCCL INFO Destroy')"
    )
    assert (reading.problem, reading.text[:16]) == ("", "network: 256 MiB")


def test_a_warning_to_the_whole_step_leaves_the_all_reduce_alone():
    script = f"import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print('met'); print({json.dumps(MEASURED)!r})"
    assert read(script).problem == ""


def test_one_process_that_fails_ends_the_others_of_its_node():
    """Local rank 1 fails at once; rank 0 would wait for a minute."""
    script = "import os, sys, time; time.sleep(60 * (os.environ['LOCAL_RANK'] == '0')); sys.exit(9)"
    began = time.monotonic()
    reading = read_network(NODE, ranks_per_node=2, gpus=2, program=[sys.executable, "-c", script])
    assert time.monotonic() - began < 20
    assert "failed with code 9" in reading.problem


def test_each_process_is_told_its_rank_and_the_port_behind_the_jobs(tmp_path):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    script = (
        "import os; "
        f"open('{tmp_path}/' + os.environ['LOCAL_RANK'], 'w').write(' '.join(os.environ[n] for n in {names}))"
    )
    second = Rendezvous(num_nodes=2, node_rank=1, master_addr="node1", master_port=29400)
    read_network(second, ranks_per_node=2, gpus=2, program=[sys.executable, "-c", script])
    written = [(tmp_path / str(local)).read_text() for local in (0, 1)]
    assert written == ["2 4 0 node1 29401", "3 4 1 node1 29401"]


def test_one_node_and_zero_mib_measure_nothing():
    program = ["/no/such/program"]
    alone = read_network(Rendezvous(), ranks_per_node=8, gpus=8, program=program)
    skipped = read_network(NODE, ranks_per_node=8, gpus=8, mib=0, program=program)
    assert (alone.text, alone.problem, skipped.text, skipped.problem) == ("", "", "", "")


def test_the_size_is_a_whole_number():
    assert (read_mib({}), read_mib({"AR3PO_ALL_REDUCE_MIB": "0"})) == (None, 0)
    with pytest.raises(ValueError, match="AR3PO_ALL_REDUCE_MIB=lots is no whole number of MiB"):
        read_mib({"AR3PO_ALL_REDUCE_MIB": "lots"})
    assert "AR3PO_ALL_REDUCE_MIB" not in os.environ
