"""Two nodes that meet by torchrun's own variables, as examples/kubernetes/jobset.yaml and docs/containers.md start
them: two processes on this machine, at loopback. The trainer is the stand-in of tests/slurm."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from harness.jobset import ROOT, container_of, environment_of, load_jobset

LIMIT_S = 120


def free_ports() -> int:
    """A port whose next one is free too: the nodes reduce at that."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def start_node(index: int, port: int, folder: Path, *words: str, **variables: str):
    """The container's command with a CPU's figures, one rank a node."""
    container = container_of(load_jobset())
    config = ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml"
    small = [f"model.path={folder}/model", f"data.path={folder}/data.jsonl", "evaluation.path="]
    small += ["actor.tensor_parallel_size=1", "actor.sequence_parallel=false", "run.resume=true"]
    options = ["--nproc-per-node=1", "--gpus-per-node=0", "--stopped-exit-code=75"]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PET_"))},
        **environment_of(container, index),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests/slurm",
        "AR3PO_TRAINER": "stand_in_trainer",
        "AR3PO_ALL_REDUCE_MIB": "0",  # two imports of torch less; tests/slurm has it
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    with (folder / f"node_{index}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *container["command"][1:], *options, str(config), *small, f"run.dir={folder}/run", *words],
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip


def test_two_nodes_meet_and_a_signal_to_one_stops_and_saves_both(tmp_path):
    """As where a node is drained: SIGTERM, and both end with the code by which they are started again."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "data.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    port, run = free_ports(), tmp_path / "run"

    nodes = [
        start_node(i, port, tmp_path, "run.num_steps=80", STAND_IN_STEP_S="0.2") for i in (1, 0)
    ]
    try:
        end = time.monotonic() + LIMIT_S
        while not (run / "began.0").exists():
            assert time.monotonic() < end, (tmp_path / "node_0.log").read_text()
            time.sleep(0.1)
        nodes[1].send_signal(signal.SIGTERM)
        assert [node.wait(LIMIT_S) for node in nodes] == [75, 75]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    assert (run / "STOPPED").exists() and not (run / "DONE").exists()
    logs = [(tmp_path / f"node_{index}.log").read_text() for index in (0, 1)]
    for index, log in enumerate(logs):
        assert f"rank {index} of 2 starts at step 0" in log
        assert "torchrun ended with code 0, the run is saved and not finished" in log
