"""One Slurm cluster for all tests of this folder, and what a job needs to start on it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import ROOT, SlurmCluster, processes_that_mention, why_not

ENDING_S = 20.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    reason = why_not()
    if reason:
        pytest.skip(f"no Slurm cluster: {reason}")
    cluster = SlurmCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run's folder; after the test no process knows of it any more."""
    folder = tmp_path / "run"
    yield folder
    # torch's shared-memory manager ends a moment after the last process that used it.
    end = time.monotonic() + ENDING_S
    while (left := processes_that_mention(str(folder))) and time.monotonic() < end:
        time.sleep(0.2)
    assert left == []


@pytest.fixture
def job_env(tmp_path: Path, run_dir: Path) -> dict[str, str]:
    """A two-rank CPU run of the stand-in trainer, started by the shipped scripts."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (model / "model.safetensors").write_bytes(b"weights")
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    return {
        "AR3PO_HOME": str(ROOT),
        "AR3PO_TRAINER": "stand_in_trainer",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'slurm'}",
        "PYTHON": sys.executable,
        "PROFILE": "cpu",
        "AR3PO_ALL_REDUCE_MIB": "0",  # it imports torch; test_preflight_on_slurm.py has one
        "RUN_DIR": str(run_dir),
        "MODEL_PATH": str(model),
        "DATA_PATH": str(data),
        "EVAL_PATH": str(data),
    }
