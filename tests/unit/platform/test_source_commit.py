from __future__ import annotations

import subprocess
from pathlib import Path

from megatron_ar3po.platform.source_commit import read_commit


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_checkout_has_a_commit_and_what_was_changed_is_marked(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert read_commit(tmp_path) == commit
    (tmp_path / "notes.txt").write_text("not tracked\n")
    assert read_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2\n")
    assert read_commit(tmp_path) == f"{commit}+"


def test_an_installed_package_has_none(tmp_path):
    assert read_commit(tmp_path) == ""
