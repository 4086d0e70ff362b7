"""The mutants' patches fit the code as it is; that each of them dies is shown by `make mutants`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.run_mutants import (
    FOLDER,
    ROOT,
    Mutant,
    apply_patch,
    check_unmutated,
    dies,
    main,
    read_mutants,
)

MUTANTS = {mutant.name: mutant for mutant in read_mutants()}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_patch_applies_to_the_package_and_names_tests_that_are_there(name):
    mutant = MUTANTS[name]
    subprocess.run(["git", "apply", "--check", str(mutant.path)], cwd=ROOT, check=True)
    changed = {
        line.removeprefix("+++ b/")
        for line in mutant.path.read_text().splitlines()
        if line.startswith("+++ ")
    }
    assert changed and all(file.startswith("megatron_ar3po/") for file in changed)
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}" in (ROOT / file).read_text()


def write_package(folder: Path, body: str = "return 1") -> Path:
    folder.mkdir()
    (folder / "megatron_ar3po").mkdir()
    (folder / "megatron_ar3po/__init__.py").write_text("")
    (folder / "megatron_ar3po/one.py").write_text(f"def one():\n    {body}\n")
    return folder


def write_patch(path: Path, *, old: str = "return 1", header: str | None = None) -> Path:
    path.write_text(
        (header or "Breaks: one is two\nKilled by: tests/unit/test_records.py\n")
        + "--- a/megatron_ar3po/one.py\n+++ b/megatron_ar3po/one.py\n"
        + f"@@ -1,2 +1,2 @@\n def one():\n-    {old}\n+    return 2\n"
    )
    return path


def test_a_patch_changes_the_copy_and_one_that_no_longer_applies_is_named(tmp_path):
    package = write_package(tmp_path / "package")
    apply_patch(write_patch(tmp_path / "fits.patch"), package)
    assert (package / "megatron_ar3po/one.py").read_text() == "def one():\n    return 2\n"
    with pytest.raises(ValueError, match=r"late\.patch no longer applies"):
        apply_patch(write_patch(tmp_path / "late.patch", old="return 7"), package)


def test_a_patch_without_its_two_lines_is_refused(tmp_path, capsys):
    write_patch(tmp_path / "bare.patch", header="Breaks: something\n")
    assert main(["--folder", str(tmp_path), "--list"]) == 2
    assert "bare.patch must begin with" in capsys.readouterr().err


def test_a_name_that_no_patch_has_is_refused(capsys):
    assert main(["--only", "no_such_mutant"]) == 2
    assert "holds no no_such_mutant" in capsys.readouterr().err


def test_a_mutant_that_its_tests_do_not_notice_lives_and_one_that_they_notice_dies(capsys):
    """The seed's mutant, given a file of tests that never looks at seeds, and given its own."""
    path = FOLDER / "training_seed_without_the_step.patch"
    [file] = MUTANTS["training_seed_without_the_step"].tests
    killer = "test_a_prompt_that_comes_again_in_a_later_step_is_answered_with_other_noise"
    assert not dies(Mutant(path, "", ("tests/unit/test_records.py",)))
    assert dies(Mutant(path, "", (f"{file}::{killer}",)))
    lived, died = capsys.readouterr().out.splitlines()
    assert lived.startswith("LIVED") and died.startswith("died")


def test_tests_that_are_missing_say_nothing_of_a_mutant():
    path = FOLDER / "training_seed_without_the_step.patch"
    with pytest.raises(ValueError, match="do not pass without a mutant"):
        check_unmutated([Mutant(path, "", ("tests/unit/test_no_such_file.py",))])
