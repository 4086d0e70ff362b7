"""Which copy of the package runs: two copies in folders of the test, told apart by their files alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ar3po.launch.code_check import (
    check_code,
    code_problems,
    describe_code,
    paths_for_children,
)
from megatron_ar3po.platform.running_code import PACKAGE, read_code, read_running_code


def make_copy(folder: Path, value: str = "1") -> Path:
    """A package of two files."""
    package = folder / "megatron_ar3po"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A copy."""\n\n__version__ = "0.1.0"\n')
    (package / "answer.py").write_text(f"VALUE = {value}\n")
    return package


def test_two_copies_of_the_same_files_are_the_same_code_wherever_they_lie(tmp_path):
    one, two = make_copy(tmp_path / "one"), make_copy(tmp_path / "two")
    (two / "__pycache__").mkdir()
    (two / "__pycache__/answer.cpython-311.pyc").write_bytes(b"of another day")
    assert read_code(one).digest == read_code(two).digest
    assert read_code(one).version == "0.1.0" and read_code(one).folder == str(tmp_path / "one")


@pytest.mark.parametrize("change", ["content", "name", "one file more"])
def test_one_changed_file_makes_another_code(change, tmp_path):
    one, two = make_copy(tmp_path / "one"), make_copy(tmp_path / "two")
    if change == "content":
        (two / "answer.py").write_text("VALUE = 2\n")
    elif change == "name":
        (two / "answer.py").rename(two / "answers.py")
    else:
        (two / "empty.py").touch()
    assert read_code(one).digest != read_code(two).digest


def test_a_checkouts_commit_is_named_and_a_changed_file_shows(tmp_path):
    package = make_copy(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, timeout=30)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=30)
    commit = head.stdout.strip()[:12]
    assert read_code(package).commit == commit
    (package / "answer.py").write_text("VALUE = 2\n")
    assert read_code(package).commit == f"{commit}+"
    assert read_code(package).name.split("/")[:2] == ["0.1.0", f"{commit}+"]


def test_the_images_copy_has_the_commit_of_its_build(tmp_path, monkeypatch):
    image, other = make_copy(tmp_path / "image"), make_copy(tmp_path / "other")
    monkeypatch.setenv("AR3PO_IMAGE_FOLDER", str(tmp_path / "image"))
    monkeypatch.setenv("AR3PO_IMAGE_COMMIT", "0123456789abcdef")
    assert read_code(image).commit == "0123456789ab"
    assert read_code(other).commit == ""


def test_a_node_that_runs_other_code_than_was_submitted_is_refused(tmp_path):
    running = read_code(make_copy(tmp_path / "image"))
    submitted = read_code(make_copy(tmp_path / "mine", "2"))
    (problem,) = code_problems(submitted.name, running)
    assert problem.startswith(
        f"this node runs {running.name} from {tmp_path}/image, but the job was"
    )
    assert submitted.name in problem and "--code image" in problem
    assert code_problems(running.name, running) == []
    assert code_problems("0.9/some-other-commit/" + running.digest, running) == []
    assert code_problems("", running) == []


def test_both_copies_are_named_where_they_differ(tmp_path):
    mounted, image = (
        read_code(make_copy(tmp_path / "repo", "2")),
        read_code(make_copy(tmp_path / "opt")),
    )
    assert describe_code(mounted, image) == [
        f"code: megatron_ar3po 0.1.0, commit unknown, files {mounted.digest} in {tmp_path}/repo",
        f"code: installed here, but not run: megatron_ar3po 0.1.0, commit unknown, files {image.digest} in "
        f"{tmp_path}/opt",
    ]
    assert len(describe_code(mounted, mounted)) == len(describe_code(mounted, None)) == 1


def test_what_runs_here_is_what_this_test_imports():
    lines, problems = check_code(read_running_code().name)
    assert problems == []
    assert lines[0].endswith(f" in {PACKAGE.parent}")


@pytest.mark.parametrize("here", [True, False])
def test_the_ranks_import_the_copy_of_their_node_also_beside_another_one(here, tmp_path):
    """`python -m` in a folder with a copy of its own: by itself it takes that one, whatever PYTHONPATH says."""
    if sys.version_info < (3, 11):
        pytest.skip("PYTHONSAFEPATH came with Python 3.11")
    snapshot, checkout = make_copy(tmp_path / "snapshot", "1"), tmp_path / "checkout"
    checkout.mkdir()
    if here:
        make_copy(checkout, "2")
    (checkout / "my_rewards.py").write_text("VALUE = 7\n")
    (snapshot / "show.py").write_text(
        "from megatron_ar3po.answer import VALUE\nimport my_rewards\nprint(VALUE, my_rewards.VALUE)\n"
    )
    shutil.copy(snapshot / "show.py", checkout / "megatron_ar3po/show.py") if here else None
    inherited = {"PYTHONPATH": str(tmp_path / "mine")}

    paths = paths_for_children(inherited, snapshot, None, checkout)

    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.show"],
        cwd=checkout,
        env={**os.environ, **inherited, **paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "1 7\n", done.stderr
    assert paths["PYTHONPATH"].endswith(f"{os.pathsep}{tmp_path}/mine")


def test_the_installed_copy_needs_no_path(tmp_path):
    package = make_copy(tmp_path / "site")
    assert paths_for_children({}, package, package, tmp_path) == {}


def test_a_snapshot_has_the_commit_that_it_was_submitted_with(tmp_path):
    """It lies outside of any checkout; here the running package takes its part, from a copy without .git."""
    shutil.copytree(
        PACKAGE, tmp_path / "code/megatron_ar3po", ignore=shutil.ignore_patterns("__pycache__")
    )
    digest = read_running_code().digest
    script = f"from megatron_ar3po.launch.code_check import check_code; print(*check_code('0.1/abc123+/{digest}')[0])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "code",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"commit abc123+, files {digest} in {tmp_path}/code" in done.stdout, done.stderr
