"""One node of a run, on this machine: torchrun is real, the trainer is a script of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TRAINER = """
import os, signal, sys, time
from pathlib import Path
run = Path(next(w for w in sys.argv if w.startswith("run.dir="))[8:])
(run / "began").touch()
stop = Path(os.environ["AR3PO_STOP_FILE"])
while not stop.exists():
    time.sleep(0.05)
(run / "STOPPED").touch()
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    for file in ("model/config.json", "model/model.safetensors", "train.jsonl", "config.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "waiting_trainer.py").write_text(TRAINER)
    return [
        f"{tmp_path}/config.yaml",
        f"model.path={tmp_path}/model",
        f"data.path={tmp_path}/train.jsonl",
        f"run.dir={tmp_path}/run",
    ]


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "AR3PO", "MASTER"))}
    env = {**kept, "AR3PO_TRAINER": "waiting_trainer", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "-m", "megatron_ar3po.launch.node", *words]
    return subprocess.Popen(
        command, env=env, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_warning_signal_stops_the_run_after_its_step_with_the_code_asked_for(words, tmp_path):
    node = start(tmp_path, "--stopped-exit-code=75", *words)
    try:
        end = time.monotonic() + 90
        while not (tmp_path / "run/began").exists() and time.monotonic() < end:
            time.sleep(0.1)
        node.send_signal(signal.SIGUSR1)
        output, _ = node.communicate(timeout=60)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 75, output
    assert "SIGUSR1: asking the trainer to stop after this step and save" in output
    assert not list((tmp_path / "run").glob("stop.*"))


def test_a_node_that_is_not_ready_ends_with_3_and_starts_nothing(words, tmp_path):
    output, _ = (node := start(tmp_path, *words, "data.path=none")).communicate(timeout=60)
    assert node.returncode == 3
    assert "data.path=none is no file here" in output
    assert not (tmp_path / "run/began").exists()


def test_a_config_that_cannot_start_ends_with_2_and_one_sentence(words, tmp_path):
    output, _ = (node := start(tmp_path, *words, "run.sed=1")).communicate(timeout=60)
    assert node.returncode == 2
    assert "unknown option run.sed=1; the nearest known one is run.seed" in output
    assert "Traceback" not in output
