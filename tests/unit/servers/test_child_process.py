"""A guarded child of a few lines, in the place of a server. What SGLang leaves behind is tests/e2e's matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_ar3po.servers.child_process import ChildProcess, log_tail

# Starts a child of its own, says so, and works on; like a server it calls the guard first.
GUARDED = """
    import subprocess, sys, time
    from megatron_ar3po.platform.process_guard import start_guard
    start_guard(int(sys.argv[1]), sys.argv[2])
    subprocess.Popen(["sleep", "600"])
    print("it was asked", sys.argv[3], flush=True)
    time.sleep(600)
"""
# As the server's module: it imports first, then does what it was handed over.
EARLY = """
    import os, subprocess, sys, time
    from pathlib import Path
    from megatron_ar3po.platform.handed_over import take_over
    from megatron_ar3po.platform.process_guard import start_guard
    start_guard(int(sys.argv[1]), sys.argv[2])
    subprocess.Popen(["sleep", "600"])
    print("it imports", *sys.argv[3:], os.environ.get("PLACE"), flush=True)
    arguments = take_over(Path(sys.argv[2]))
    os.system("echo a child of it says so")
    is_its_folder = os.environ["TMPDIR"] == sys.argv[2]
    print("it was asked", arguments, os.environ["PLACE"], is_its_folder, flush=True)
    time.sleep(600)
"""
DEAF = "import time; print('it was asked nothing', flush=True); time.sleep(600)"
PARENT = """
    import sys, time
    from pathlib import Path
    from megatron_ar3po.servers.child_process import ChildProcess
    child = ChildProcess("child", "stand_in", log_path=Path(sys.argv[1]))
    child.start({})
    print(child.process_group, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def write_child(tmp_path: Path, monkeypatch) -> Callable[[str], None]:
    """A module `stand_in` that processes started from here find; what these start has its temporary folders in
    `tmp_path`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def write(text: str) -> None:
        (folder / "stand_in.py").write_text(textwrap.dedent(text))

    return write


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[Callable[..., ChildProcess]]:
    made: list[ChildProcess] = []

    def make(**options: Any) -> ChildProcess:
        child = ChildProcess("child", "stand_in", log_path=tmp_path / "logs/child.log", **options)
        made.append(child)
        return child

    yield make
    for child in made:
        child.stop()


def wait_until(condition: Callable[[], object], limit_s: float = 20.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, "it did not come true in time"
        time.sleep(0.02)
    return time.monotonic() - started


def members_of(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def is_at_work(log: Path) -> bool:
    """Its line is whole: print writes it in pieces."""
    return log.is_file() and "it was asked" in log.read_text() and log.read_text().endswith("\n")


def test_it_gets_its_arguments_and_ends_with_what_it_started(write_child, make_child) -> None:
    write_child(GUARDED)
    child = make_child()
    child.start({"port": 7})
    wait_until(lambda: is_at_work(child.log_path))
    assert 'it was asked {"port": 7}' in child.log_path.read_text()
    group = child.process_group
    assert child.is_running() and len(members_of(group)) == 2
    assert group != os.getpgrp() and os.getsid(group) == group
    temporary = Path(psutil.Process(group).cmdline()[-2])
    assert temporary.is_dir()
    started = time.monotonic()
    child.stop()
    assert time.monotonic() - started < 4  # it was not waited for: the guard heard
    assert not child.is_running() and not temporary.exists()
    wait_until(lambda: members_of(group) == [], 5)  # killed, and the kernel is not at its end
    assert child.log_tail().startswith("It was stopped. Last lines of")
    child.start({"port": 8})  # anew
    wait_until(lambda: '{"port": 8}' in child.log_path.read_text())


def test_one_that_was_begun_writes_no_log_until_it_is_started_and_then_all_of_it(
    write_child, make_child
) -> None:
    write_child(EARLY)
    child = make_child()
    child.begin({"seeded": True}, {**os.environ, "PLACE": "here"})
    group = child.process_group
    wait_until(lambda: len(members_of(group)) == 2)
    output = Path(psutil.Process(group).cmdline()[-3]) / "output.log"
    wait_until(lambda: output.is_file() and "it imports" in output.read_text())
    assert not child.log_path.parent.exists() and child.is_running()
    child.start({"port": 7}, {**os.environ, "PLACE": "there"})
    assert child.process_group == group
    wait_until(lambda: is_at_work(child.log_path))
    assert child.log_path.read_text().splitlines() == [
        'it imports early {"seeded": true} here',
        "a child of it says so",
        "it was asked {'port': 7} there True",
    ]
    child.stop()
    wait_until(lambda: members_of(group) == [], 5)
    assert not output.parent.exists()
    write_child(GUARDED)
    child.start({"port": 8})  # anew: nothing was begun
    wait_until(lambda: '{"port": 8}' in child.log_path.read_text())


def test_one_that_was_begun_and_is_not_wanted_leaves_nothing(write_child, make_child) -> None:
    write_child(EARLY)
    child = make_child()
    child.begin({})
    group = child.process_group
    wait_until(lambda: len(members_of(group)) == 2)
    folder = Path(psutil.Process(group).cmdline()[-3])
    child.stop()
    wait_until(lambda: members_of(group) == [], 5)
    assert not folder.exists() and not child.log_path.parent.exists()


def test_one_that_died_of_its_imports_dies_of_them_again_and_has_a_log(
    write_child, make_child
) -> None:
    write_child("raise SystemExit('out of luck')")
    child = make_child()
    child.begin({})
    wait_until(lambda: not child.is_running())
    child.start({})
    wait_until(lambda: not child.is_running())
    assert child.log_tail().endswith("out of luck")


def test_one_that_does_not_hear_is_killed_after_the_grace_period(write_child, make_child) -> None:
    write_child(DEAF)
    child = make_child(stop_grace_s=0.3)
    child.start({})
    wait_until(lambda: is_at_work(child.log_path))
    group = child.process_group
    started = time.monotonic()
    child.stop()
    assert 0.3 <= time.monotonic() - started < 5
    wait_until(lambda: members_of(group) == [], 5)


def test_one_that_stands_still_is_ended_without_the_grace_period(write_child, make_child) -> None:
    write_child(GUARDED)
    child = make_child(stop_grace_s=60.0)
    child.start({})
    wait_until(lambda: is_at_work(child.log_path))
    group = child.process_group
    os.killpg(group, signal.SIGSTOP)
    wait_until(lambda: {p.status() for p in members_of(group)} == {psutil.STATUS_STOPPED})
    started = time.monotonic()
    child.stop()
    assert time.monotonic() - started < 10
    wait_until(lambda: members_of(group) == [], 5)


def test_one_that_died_says_its_exit_code_and_its_last_lines(write_child, make_child) -> None:
    write_child("raise SystemExit('out of luck')")
    child = make_child()
    child.start({})
    wait_until(lambda: not child.is_running())
    assert child.log_tail() == (
        f"Its exit code was 1. Last lines of {child.log_path}:\n    out of luck"
    )


def test_the_tail_of_a_log_is_its_last_fifteen_lines_cut_to_three_hundred_characters(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == f"There is no log at {log}."
    log.write_text("\n".join(f"{i} " + "x" * 400 for i in range(20)))
    lines = log_tail(log).splitlines()
    assert lines[0] == f"Last lines of {log}:" and len(lines) == 16
    assert lines[1] == "    5 " + "x" * 298


@pytest.mark.parametrize("stands_still", [False, True])
def test_it_does_not_outlive_its_parent(write_child, tmp_path: Path, stands_still: bool) -> None:
    """The parent is killed by SIGKILL. It may have been stopped itself before (SIGSTOP), its guard with it."""
    write_child(GUARDED)
    log = tmp_path / "child.log"
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(log)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    try:
        wait_until(lambda: is_at_work(log))
        assert len(members_of(group)) == 2 and len(list((tmp_path / "tmp").iterdir())) == 1
        if stands_still:
            os.killpg(group, signal.SIGSTOP)
            wait_until(lambda: {p.status() for p in members_of(group)} == {psutil.STATUS_STOPPED})
        parent.kill()
        parent.wait(10)
        wait_until(lambda: members_of(group) == [])
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        parent.kill()
        for process in members_of(group):
            process.kill()


def test_one_that_was_begun_does_not_outlive_its_parent_either(write_child, tmp_path: Path) -> None:
    write_child(EARLY)
    begins = textwrap.dedent(PARENT).replace("child.start", "child.begin")
    parent = subprocess.Popen(
        [sys.executable, "-c", begins, str(tmp_path / "child.log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    try:
        wait_until(lambda: len(members_of(group)) == 2)
        parent.kill()
        parent.wait(10)
        wait_until(lambda: members_of(group) == [])
        assert list((tmp_path / "tmp").iterdir()) == [] and not (tmp_path / "child.log").exists()
    finally:
        parent.kill()
        for process in members_of(group):
            process.kill()


def test_it_lives_on_when_the_thread_that_started_it_ends(write_child, make_child) -> None:
    """A lost server is restarted from a thread of the engine, and to the kernel that thread is the parent."""
    write_child(GUARDED)
    child = make_child()

    def start_and_end() -> None:
        child.start({})
        wait_until(lambda: is_at_work(child.log_path))

    starter = threading.Thread(target=start_and_end)
    starter.start()
    starter.join(30)
    time.sleep(1.0)  # two rounds of the guard
    assert child.is_running() and len(members_of(child.process_group)) == 2
