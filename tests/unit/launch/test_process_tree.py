"""Nothing outlives the process at the top of a node, however it ends, and even what stands still then: small stand-ins
in the places of torchrun, a rank, and its server. tests/unit/servers/test_child_process.py has the server alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

# The server: guarded, with a child of its own, as SGLang has its scheduler.
SERVER = """
    import subprocess, sys, time
    from megatron_ar3po.platform.process_guard import start_guard
    start_guard(int(sys.argv[1]), sys.argv[2])
    child = subprocess.Popen(["sleep", "600"])
    open(sys.argv[0] + ".pids", "a").write(f"{child.pid}\\n")
    time.sleep(600)
"""
RANK = """
    import os, sys, time
    from pathlib import Path
    from megatron_ar3po.platform.process_guard import die_with_parent
    from megatron_ar3po.servers.child_process import ChildProcess
    die_with_parent()
    child = ChildProcess("child", "stand_in", log_path=Path(sys.argv[1]) / "child.log")
    child.start({})
    line = f"{os.getpid()} {child.process_group}\\n"
    os.write(1, line.encode())  # in one piece: the two ranks write into one pipe
    time.sleep(600)
"""
TORCHRUN = """
    import os, subprocess, sys, time
    print(os.getpid(), flush=True)
    for _ in range(2):
        subprocess.Popen([sys.executable, sys.argv[1], sys.argv[2]])
    time.sleep(600)
"""
NODE = """
    import sys
    from pathlib import Path
    from megatron_ar3po.launch.node import TorchrunProcess
    TorchrunProcess([sys.executable, *sys.argv[1:]], Path("stop")).wait()
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name, text in (
        ("stand_in", SERVER),
        ("rank", RANK),
        ("torchrun", TORCHRUN),
        ("node", NODE),
    ):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    words = [tmp_path / "node.py", tmp_path / "torchrun.py", tmp_path / "rank.py", tmp_path]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    yield process
    process.kill()


def read_tree(node: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """torchrun, two ranks, two servers and a child of each."""
    assert node.stdout is not None
    pids = [int(pid) for _ in range(3) for pid in node.stdout.readline().split()]
    deadline = time.monotonic() + 60
    while (
        len(
            children := (folder / "stand_in.py.pids").read_text().split()
            if (folder / "stand_in.py.pids").exists()
            else []
        )
        < 2
    ):
        assert time.monotonic() < deadline, "the servers did not start"
        time.sleep(0.05)
    return [psutil.Process(int(pid)) for pid in [*pids, *children]]


def is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("what_stands_still", ["nothing", "torchrun", "all"])
def test_all_of_a_node_ends_with_the_process_at_its_top(node, tmp_path, what_stands_still) -> None:
    tree = read_tree(node, tmp_path)
    stopped = {"nothing": [], "torchrun": tree[:1], "all": tree}[what_stands_still]
    try:
        assert len(tree) == 7 and all(map(is_there, tree))
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        node.kill()
        node.wait(10)
        deadline = time.monotonic() + 10  # a second or two on a quiet machine
        while left := [process for process in tree if is_there(process)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    finally:
        for process in filter(is_there, tree):
            process.kill()


ALONE = """
    import subprocess, sys, time
    words = ["-m", "megatron_ar3po.train", *sys.argv[1:]]
    print(subprocess.Popen([sys.executable, *words]).pid, flush=True)
    time.sleep(600)
"""


def test_a_real_rank_ends_with_a_torchrun_that_is_killed_even_when_it_stands_still(
    tmp_path: Path, monkeypatch
) -> None:
    """It has come as far as to own its run's folder."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # as torchrun sets it
    (tmp_path / "torchrun.py").write_text(textwrap.dedent(ALONE))
    root = Path(__file__).parents[3]
    config = root / "examples/tiny_sum/config.yaml"
    old = root / "tests/fixtures/run_of_0_1_0"  # a model and prompts that are always there
    words = [f"run.dir={tmp_path / 'run'}", f"model.path={old / 'model'}", "evaluation.path="]
    words.append(f"data.path={old / 'prompts.jsonl'}")
    torchrun = subprocess.Popen(
        [sys.executable, tmp_path / "torchrun.py", config, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert torchrun.stdout is not None
    rank = psutil.Process(int(torchrun.stdout.readline()))
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/owner.json").exists():
            assert is_there(rank) and time.monotonic() < deadline, "it did not start"
            time.sleep(0.02)
        rank.send_signal(signal.SIGSTOP)
        torchrun.kill()
        torchrun.wait(10)
        deadline = time.monotonic() + 10
        while is_there(rank):
            assert time.monotonic() < deadline, "it outlives torchrun"
            time.sleep(0.05)
    finally:
        torchrun.kill()
        if is_there(rank):
            rank.kill()
