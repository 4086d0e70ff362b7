"""The one function that builds the trainer's command line, and who uses it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megatron_ar3po.launch.arguments import Rendezvous, node_words, torchrun_command, trainer_words

ROOT = Path(__file__).resolve().parents[3]


def test_one_node_runs_torchrun_with_the_trainers_words_last(monkeypatch):
    monkeypatch.delenv("AR3PO_TRAINER", raising=False)
    rendezvous = Rendezvous(num_nodes=4, node_rank=2, master_addr="node1", master_port=20007)
    words = torchrun_command("c.yaml", ["run.seed=1"], nproc_per_node=8, rendezvous=rendezvous)
    assert words == [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=4",
        "--node-rank=2",
        "--master-addr=node1",
        "--master-port=20007",
        "--nproc-per-node=8",
        "--max-restarts=0",
        "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT",
        "-m",
        "megatron_ar3po.train",
        "c.yaml",
        "run.seed=1",
    ]


def test_another_trainer_can_take_the_trainers_place(monkeypatch):
    monkeypatch.setenv("AR3PO_TRAINER", "my_project.train")
    assert trainer_words("c.yaml", []) == ["-m", "my_project.train", "c.yaml"]


def test_slurms_variables_say_where_the_nodes_meet():
    env = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "20007"}
    assert Rendezvous.from_environment(env) == Rendezvous(
        num_nodes=2, node_rank=1, master_addr="n1", master_port=20007
    )


def test_one_node_lets_torchrun_choose_its_port():
    """A free port found by us would be a race: torchrun needs seconds until it listens."""
    env = {"SLURM_NNODES": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "20007"}
    words = Rendezvous.from_environment(env).torchrun_words()
    assert words == ["--standalone", "--local-addr=127.0.0.1"]


def test_two_nodes_without_a_meeting_point_are_refused():
    with pytest.raises(ValueError, match="SLURM_NNODES=2, but MASTER_ADDR and MASTER_PORT"):
        Rendezvous.from_environment({"SLURM_NNODES": "2"})


def test_the_slurm_wrapper_passes_the_words_of_the_same_function():
    """launch.sh cannot call Python before the container is up, so it spells the options out; they must be these."""
    wrapper = (ROOT / "launch_slurm" / "launch.sh").read_text()
    options = [w.partition("=")[0] for w in node_words("c", [], nproc_per_node=8, gpus_per_node=8)]
    call = wrapper.partition("-m megatron_ar3po.launch.node")[2].partition("&\n")[0]
    assert [o for o in options if o.startswith("--") and o != "--stopped-exit-code"] == [
        w.partition("=")[0] for w in call.replace("\\", "").split() if w.startswith("--")
    ]
    assert 'run.dir="$RUN_DIR" run.resume=true' in call.splitlines()[-1]
