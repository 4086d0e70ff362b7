"""Whether the code that runs on a node is the code that was submitted, and that all its processes run the same.

A node may hold two copies of the package: the image's, and one in a folder that all nodes share. Both are named in its
log. Nothing is guessed from version numbers: two copies are the same where the digests of their files are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from megatron_ar3po.platform.running_code import (
    Code,
    find_installed_package,
    read_code,
    read_running_code,
)


def describe_code(running: Code, installed: Code | None) -> list[str]:
    """Lines for a node's log: what runs, and the installed copy where that is another one."""
    lines = [f"code: {running} in {running.folder}"]
    if installed is not None and installed.digest != running.digest:
        lines.append(f"code: installed here, but not run: {installed} in {installed.folder}")
    return lines


def read_installed_code() -> Code | None:
    package = find_installed_package()
    return read_code(package) if package else None


def code_problems(submitted: str, running: Code) -> list[str]:
    """`submitted` is the name of the code that the job was submitted with (AR3PO_CODE); "": any will do."""
    if not submitted or submitted.rpartition("/")[2] == running.digest:
        return []
    return [
        f"this node runs {running.name} from {running.folder}, but the job was submitted with {submitted} "
        "(version/commit/files); mount that folder and name it in PYTHONPATH, send the code with --code files, or "
        "run the image's copy with --code image."
    ]


def paths_for_children(
    environment: Mapping[str, str], running: Path, installed: Path | None, folder: Path
) -> dict[str, str]:
    """Variables by which what a node starts in `folder` imports `running`, the package that the node itself has.
    `python -m` looks into its folder first, so another copy there would be taken: then that folder goes behind."""
    is_shadowed = (folder / "megatron_ar3po").is_dir() and folder / "megatron_ar3po" != running
    if running == installed and not is_shadowed:
        return {}
    there = environment.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(running.parent), *([str(folder)] if is_shadowed else []), *there]
    joined = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    return {"PYTHONPATH": joined, **({"PYTHONSAFEPATH": "1"} if is_shadowed else {})}


def check_code(submitted: str) -> tuple[list[str], list[str]]:
    """(lines for the log, problems)."""
    running = read_running_code()
    if (
        not running.commit and submitted.rpartition("/")[2] == running.digest
    ):  # a snapshot has no .git
        running = replace(running, commit=submitted.split("/")[1].strip("-"))
    return describe_code(running, read_installed_code()), code_problems(submitted, running)
