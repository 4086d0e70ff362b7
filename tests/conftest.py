"""Fixtures that several kinds of tests share: the tiny task, and whole runs of the trainer."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from harness.browser import start_browser
from harness.trainer_runs import ROOT, RunStarter

# The same examples each time, however busy the machine is: `make test` says something about the code alone.
# AR3PO_FUZZ_EXAMPLES (tests/unit/rewards/test_verifier_fuzz.py) searches on.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize="AR3PO_FUZZ_EXAMPLES" not in os.environ
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def root_logging_stays_as_it_was():
    """An experiment of NeMo-Run takes the root logger over (`logging.basicConfig(force=True)`) and keeps it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def tiny_task() -> Path:
    """Model and prompts of examples/tiny_sum, made once and kept in the cache."""
    folder = ROOT / ".cache/tiny_sum"
    if not (folder / "task.json").is_file():
        command = [sys.executable, "tools/make_tiny_model.py", "--out", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return folder


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what version 0.1.0 wrote (tests/fixtures/run_of_0_1_0/README.md), for which the current folder is as it
    was: the run's folder, "run"."""
    copy = tmp_path / "old"
    shutil.copytree(ROOT / "tests/fixtures/run_of_0_1_0", copy)
    monkeypatch.chdir(copy)
    return Path("run")


@pytest.fixture
def start_run(tmp_path: Path, tiny_task: Path):
    starter = RunStarter(tmp_path)
    yield starter
    starter.end_all()


@pytest.fixture(scope="module")
def module_runs(tmp_path_factory: pytest.TempPathFactory, tiny_task: Path):
    """The same, for runs that several tests look at."""
    starter = RunStarter(tmp_path_factory.mktemp("module_run"))
    yield starter
    starter.end_all()


@pytest.fixture(scope="module")
def browser():
    """While it is there, its event loop runs: no test of the module may run another one."""
    with start_browser() as started:
        yield started
