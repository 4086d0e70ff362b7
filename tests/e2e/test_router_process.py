"""The real sglang-router, without servers behind it: it never outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from pathlib import Path
from megatron_ar3po.servers.router import GlobalRouter

router = GlobalRouter([], log_path=Path(sys.argv[1]), request_timeout_s=60)
router.start()
print(router.process_group, flush=True)
time.sleep(600)
"""


def processes_of(group: int) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "pgid=,pid="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [pid for pgid, pid in rows if int(pgid) == group]


@pytest.mark.parametrize("stands_still", [False, True], ids=["running", "stopped"])
def test_a_router_ends_with_a_parent_that_was_killed(tmp_path, stands_still):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "router.log")]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    try:
        assert len(processes_of(group)) == 2  # the guard, and the router
        if stands_still:
            os.killpg(group, signal.SIGSTOP)
        parent.kill()
        parent.wait(10)
        deadline = time.monotonic() + 10
        while processes_of(group) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_of(group) == []
    finally:
        if processes_of(group):
            os.killpg(group, signal.SIGKILL)


def test_a_router_whose_guard_was_killed_ends_too(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "router.log")]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    os.kill(group, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (
        len(processes_of(group)) > 1 and time.monotonic() < deadline
    ):  # the killed one is not waited for
        time.sleep(0.1)
    left = processes_of(group)
    parent.kill()
    parent.wait(10)
    assert left in ([], [str(group)])
