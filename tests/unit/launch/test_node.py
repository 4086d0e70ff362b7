"""One node of a run, on this machine: torchrun is real, the trainer is a script of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
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

DEAF_TRAINER = TRAINER.replace(
    "while not stop.exists():\n    time.sleep(0.05)",
    "try:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    (run / 'interrupted').touch()\n    sys.exit(130)",
)


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


def wait_for(file: Path, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)


def wait_for_stop_file(run: Path) -> None:
    end = time.monotonic() + 10
    while not list(run.glob("stop.*")) and time.monotonic() < end:
        time.sleep(0.05)


def test_a_warning_signal_stops_the_run_after_its_step_with_the_code_asked_for(words, tmp_path):
    node = start(tmp_path, "--stopped-exit-code=75", *words)
    try:
        wait_for(tmp_path / "run/began", 90)
        node.send_signal(signal.SIGUSR1)
        output, _ = node.communicate(timeout=60)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 75, output
    assert "SIGUSR1: asking the trainer to stop after this step and save" in output
    assert not list((tmp_path / "run").glob("stop.*"))


def test_a_warning_that_comes_while_the_node_is_checked_is_kept(words, tmp_path, monkeypatch):
    """The checks may wait for minutes, for another node's all-reduce."""
    slow = tmp_path / "bin/nvidia-smi"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/bash\ntouch {tmp_path}/asked; sleep 2; echo 0, 4\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    node = start(tmp_path, "--gpus-per-node=1", "--stopped-exit-code=75", *words)
    try:
        wait_for(tmp_path / "asked", 90)
        node.send_signal(signal.SIGUSR1)
        output, _ = node.communicate(timeout=90)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 75, output
    assert (tmp_path / "run/began").exists()


def test_sigterm_to_every_process_of_a_job_stops_the_run_after_its_step(words, tmp_path):
    """As a scheduler does it. torchrun by itself would end its ranks at once."""
    node = start(tmp_path, *words)
    try:
        wait_for(tmp_path / "run/began", 90)
        for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children()]:
            process.send_signal(signal.SIGTERM)
        output, _ = node.communicate(timeout=60)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 0, output
    assert "SIGTERM: asking the trainer to stop after this step and save" in output
    assert (tmp_path / "run/STOPPED").exists()


def test_a_second_sigterm_ends_torchrun_and_its_ranks_now(words, tmp_path):
    """A trainer that has not ended its step: the second request reaches it as SIGINT."""
    (tmp_path / "waiting_trainer.py").write_text(DEAF_TRAINER)
    node = start(tmp_path, *words)
    try:
        wait_for(tmp_path / "run/began", 90)
        ranks = psutil.Process(node.pid).children(recursive=True)
        node.send_signal(signal.SIGTERM)
        wait_for_stop_file(tmp_path / "run")
        node.send_signal(signal.SIGTERM)
        output, _ = node.communicate(timeout=60)
    finally:
        node.kill()
        node.wait()
    assert node.returncode != 0, output
    assert "SIGTERM again: ending torchrun now" in output
    assert (tmp_path / "run/interrupted").exists()
    assert not psutil.wait_procs(ranks, timeout=10)[1]


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
