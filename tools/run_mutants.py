#!/usr/bin/env python3
"""Does a test fail when the code is wrong? Every patch of tests/mutants breaks one thing; its tests must notice.

    make mutants                                  all of them
    .venv/bin/python tools/run_mutants.py --only training_seed_without_the_step
    .venv/bin/python tools/run_mutants.py --list

A patch begins with two lines, then comes a unified diff against the repository:

    Breaks: the seed of a training response no longer depends on the step
    Killed by: tests/unit/rollout/test_controller.py

The named tests (files, or FILE::TEST, apart by spaces) first run against an unchanged copy of the package, where they
must pass; then each mutant's tests run against a copy with its patch, where one of them must fail. Exit code 0: every
mutant died; 1: one lived; 2: a patch no longer applies, names no test that is there, or its tests fail unmutated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests/mutants"
_TIME_LIMIT_S = 600.0
_TESTS_FAILED, _ALL_PASSED = 1, 0  # pytest's exit codes; the others are no verdict of a test


@dataclass(frozen=True)
class Mutant:
    path: Path
    breaks: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants (default: all)")
    parser.add_argument("--list", action="store_true", help="say what there is, run nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        mutants = read_mutants(arguments.folder, arguments.only)
        if arguments.list:
            for mutant in mutants:
                print(f"{mutant.name:42} {mutant.breaks}")
            return 0
        check_unmutated(mutants)
        lived = [mutant.name for mutant in mutants if not dies(mutant)]
    except ValueError as error:
        print(f"run_mutants: error: {error}", file=sys.stderr)
        return 2
    if lived:
        print(f"{len(lived)} of {len(mutants)} mutants lived: {', '.join(lived)}")
        return 1
    print(f"all {len(mutants)} mutants died")
    return 0


def read_mutants(folder: Path = FOLDER, only: Sequence[str] | None = None) -> list[Mutant]:
    """By name. Raises ValueError for a patch without its two lines, and for a name that no patch has."""
    mutants = [read_mutant(path) for path in sorted(folder.glob("*.patch"))]
    unknown = set(only or ()) - {mutant.name for mutant in mutants}
    if unknown or not mutants:
        raise ValueError(f"{folder} holds no {', '.join(sorted(unknown)) or 'patch'}.")
    return [mutant for mutant in mutants if not only or mutant.name in only]


def read_mutant(path: Path) -> Mutant:
    lines = path.read_text(encoding="utf-8").splitlines()
    values: list[str] = []
    for line, label in zip(lines[:2], ("Breaks: ", "Killed by: "), strict=False):
        if not line.startswith(label):
            break
        values.append(line.removeprefix(label).strip())
    if len(values) != 2 or not all(values):
        raise ValueError(
            f"{path} must begin with a line 'Breaks: ...' and a line 'Killed by: TEST ...'."
        )
    return Mutant(path, values[0], tuple(values[1].split()))


def make_copy(folder: Path) -> None:
    """What the tests need of the repository, in `folder`; its environment is not copied."""
    for name in ("megatron_ar3po", "tests", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.name not in (".git", "megatron_ar3po", "tests", "tools", "runs"):
            (folder / path.name).symlink_to(path)


def apply_patch(path: Path, folder: Path) -> None:
    """Raises ValueError where it does not apply."""
    done = subprocess.run(
        ["git", "apply", str(path.resolve())],
        cwd=folder,
        # No repository above the folder has a say.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"{path} no longer applies ({done.stderr.strip()}); make it anew from the code as it is."
        )


def run_tests(folder: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT_S,
        check=False,
    )


def check_unmutated(mutants: Sequence[Mutant]) -> None:
    """Raises ValueError where a mutant's tests fail, or are missing, without it."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="unmutated-") as name:
        make_copy(Path(name))
        done = run_tests(Path(name), tests)
    if done.returncode != _ALL_PASSED:
        raise ValueError(
            f"the tests do not pass without a mutant (pytest's exit code {done.returncode}):\n"
            f"{(done.stdout + done.stderr)[-3000:]}"
        )


def dies(mutant: Mutant) -> bool:
    """Prints a line on it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{mutant.name}-") as name:
        make_copy(Path(name))
        apply_patch(mutant.path, Path(name))
        done = run_tests(Path(name), mutant.tests)
    if done.returncode not in (_TESTS_FAILED, _ALL_PASSED):
        raise ValueError(
            f"the tests of {mutant.name} did not run (pytest's exit code {done.returncode}):\n"
            f"{(done.stdout + done.stderr)[-3000:]}"
        )
    is_dead = done.returncode == _TESTS_FAILED
    killers = [
        line.split(" ")[1].split("::")[-1]
        for line in done.stdout.splitlines()
        if line.startswith(("FAILED ", "ERROR "))
    ]
    by = f"by {killers[0]}" if killers else ""
    seconds = time.monotonic() - started
    print(f"{'died' if is_dead else 'LIVED':6} {mutant.name:42} {seconds:5.1f} s  {by}", flush=True)
    return is_dead


if __name__ == "__main__":
    sys.exit(main())
