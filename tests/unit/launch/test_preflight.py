"""Each check against one thing that is wrong. `nvidia-smi` is a script of the test's own."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.launch import preflight
from megatron_ar3po.launch.arguments import Rendezvous


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Overrides of a run that is ready to start."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "train.jsonl").touch()
    return [
        f"model.path={model}",
        f"data.path={tmp_path}/train.jsonl",
        f"run.dir={tmp_path}/run",
    ]


def problems(words: list[str], *, gpus: int = 0, port: int = 0, canary: str = "") -> list[str]:
    return preflight.problems_of_node(
        load_config([], words),
        gpus_per_node=gpus,
        rendezvous=Rendezvous(num_nodes=2, master_addr="n1", master_port=port),
        canary=canary,
    )


def with_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/bash\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


def test_a_node_that_is_ready_has_no_problems(words):
    assert problems(words) == []


def test_a_missing_driver_is_told(words, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert problems(words, gpus=8)[0].startswith("nvidia-smi is not there")


def test_memory_that_another_process_holds_is_told_with_the_gpus_number(
    words, tmp_path, monkeypatch
):
    with_nvidia_smi(tmp_path, monkeypatch, "echo 0, 4; echo 1, 40960")
    assert problems(words, gpus=2) == [
        "GPU 1 has 40960 MiB in use already; end the process that holds them."
    ]


def test_a_gpu_that_fell_off_the_bus_is_told(words, tmp_path, monkeypatch):
    with_nvidia_smi(tmp_path, monkeypatch, "echo 'Unable to determine the device handle'; exit 15")
    assert (
        "failed with code 15: Unable to determine the device handle" in problems(words, gpus=1)[0]
    )


def test_a_folder_that_is_not_shared_is_told(words, tmp_path):
    canary = tmp_path / "of lr=1e-6"
    canary.write_text("7.0.123\n")
    assert problems(words, canary=f"{canary}=7.0.123") == []
    (told,) = problems(words, canary=f"{canary}=8.0.999")
    assert "is not one shared folder on all nodes" in told
    (told,) = problems(words, canary=f"{tmp_path}/absent=8.0.999")
    assert "holds None" in told


def test_a_folder_that_cannot_be_written_is_told(words, tmp_path):
    (tmp_path / "file").touch()
    (told,) = problems([*words, f"run.dir={tmp_path}/file/run"])
    assert f"run.dir={tmp_path}/file/run cannot be written" in told


def test_a_missing_shard_of_the_model_is_told(words, tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model/model-1.safetensors").write_bytes(b"weights")
    (told,) = problems(words)
    assert "lacks 1 of 2 weight files, first model-2.safetensors" in told


def test_missing_data_is_told(words):
    told = problems([*words, "data.path=/nowhere.jsonl", "evaluation.path=/nor/here.jsonl"])
    assert told[0].startswith("data.path=/nowhere.jsonl is no file here")
    assert told[1].startswith("evaluation.path=/nor/here.jsonl is no file here")


def test_a_taken_port_is_told(words):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = problems(words, port=port)[0]
        assert told.startswith(
            f"port {port} is taken (Address already in use) by process {os.getpid()} ("
        )
        assert told.endswith("else submit again: a job's port follows from its number.")


def test_the_installed_versions_are_those_the_code_is_pinned_to():
    pinned = preflight.pinned_requirements()
    assert any(line.startswith("megatron-core==") for line in pinned)
    assert preflight.version_problems("cpu", pinned) == []
    (told,) = preflight.version_problems("cpu", ["megatron-core==0.15.0", "rich==1.0"])
    assert "but this code needs megatron-core==0.15.0; rebuild the image." in told


def test_the_command_names_the_node_and_exits_3(words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURMD_NODENAME", "gpu-17")
    config = tmp_path / "config.yaml"
    config.write_text("run:\n  name: tiny\n")
    assert os.environ.get("AR3PO_CANARY") is None
    assert preflight.main(["--gpus-per-node=0", str(config), *words]) == 0
    assert preflight.main(["--gpus-per-node=0", str(config), *words, "data.path=none"]) == 3
    assert "preflight: node gpu-17: data.path=none is no file here" in capsys.readouterr().err


def test_a_layout_that_does_not_fit_the_jobs_nodes_is_find(words):
    """Two nodes of four GPUs: eight ranks make no whole number of replicas of three."""

    def find(*more: str, ranks: int = 4) -> list[str]:
        return preflight.layout_problems(
            load_config([], [*words, *more]), num_nodes=2, nproc_per_node=ranks, gpus_per_node=4
        )

    assert find() == []
    few = "rollout.prompts_per_step=7"  # a rule for which the model need not be known
    assert find(few)[0].startswith(f"{few} is below the data-parallel size 8")
    assert find("actor.pipeline_parallel_size=3")[0].startswith("world size 8 does not fit")
    assert "across nodes of 4 GPUs" in find("actor.tensor_parallel_size=8")[0]
    assert find(ranks=8)[0].startswith("8 ranks are to start on nodes of 4 GPUs")
    assert (
        "cannot be shared out evenly over the 2 nodes"
        in find("actor.pipeline_parallel_size=8", "servers.servers_per_replica=3")[0]
    )
