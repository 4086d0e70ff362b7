"""Which copy of this package a NeMo-Run job runs, and how it comes to the nodes.

    here    this checkout, in a folder that all nodes share; in a container it is mounted under its own path
    git     a snapshot of HEAD, packed by NeMo-Run's GitArchivePackager
    files   a snapshot of the package's files as they are now, packed by NeMo-Run's PatternPackager
    image   the copy in the container's image

All but `image` tell the nodes by AR3PO_CODE what they must find; a node that runs something else does not start.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import nemo_run as run

from megatron_ar3po.platform.running_code import PACKAGE, read_code

KINDS = ("here", "git", "files", "image")
ROOT = PACKAGE.parent
_PACKED = "/nemo_run/code"  # where NeMo-Run unpacks; without a container it writes the folder's real path instead


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSource:
    """How a job finds the package and its config."""

    config: str  # as the nodes name it
    env_vars: dict[str, str]
    packager: run.Packager
    folders: tuple[str, ...] = ()  # which a container has to show


def use_code(executor: run.SlurmExecutor, source: CodeSource) -> None:
    """Sets the executor's packager and variables so that its nodes run this code."""
    executor.packager = source.packager
    executor.env_vars = {**executor.env_vars, **source.env_vars}


def choose_code(
    kind: str, config: Path, *, is_remote: bool = False, root: Path = ROOT
) -> CodeSource:
    """`is_remote`: the nodes see no folder of this machine, so code and config both travel. `root`: the checkout."""
    if kind == "image":
        return _from_image(config, is_remote)
    if kind == "here":
        return _from_here(config, is_remote)
    if kind == "git":
        return _from_commit(config, is_remote, root)
    return _from_files(config)


def _from_image(config: Path, is_remote: bool) -> CodeSource:
    if is_remote and config.is_relative_to(
        ROOT
    ):  # /opt/megatron_ar3po has the examples, and is where the image is
        config = Path("/opt/megatron_ar3po") / config.relative_to(ROOT)
    elif is_remote:
        raise ValueError(
            f"CONFIG={config} lies on this machine, which the nodes do not see; use --code files, which sends it."
        )
    folders = () if is_remote else (str(config.parent),)
    return CodeSource(config=str(config), env_vars={}, packager=run.Packager(), folders=folders)


def _from_here(config: Path, is_remote: bool) -> CodeSource:
    if is_remote:
        raise ValueError(
            "--code here runs the code in this folder, which nodes behind --ssh do not see; use --code git or files, "
            "which sends it, or --code image."
        )
    return CodeSource(
        config=str(config),
        env_vars=_path_and_name(str(ROOT)),
        packager=run.Packager(),
        folders=(str(ROOT),),
    )


def _from_commit(config: Path, is_remote: bool, root: Path) -> CodeSource:
    changed = _git(root, "status", "--porcelain", "--", "megatron_ar3po")
    if changed:
        raise ValueError(
            f"--code git sends HEAD, but {len(changed.splitlines())} files of megatron_ar3po differ from it, first "
            f"{changed.splitlines()[0].split()[-1]}; commit them, or use --code files."
        )
    if not Path.cwd().is_relative_to(root):
        raise ValueError(
            f"--code git packs the checkout that this command is started in, and {Path.cwd()} lies outside of {root}; "
            "start it there, or use --code files."
        )
    inside = config.is_relative_to(root) and bool(_git(root, "ls-files", "--", str(config)))
    if is_remote and not inside:
        raise ValueError(
            f"--code git sends HEAD, in which CONFIG={config} is not; commit it, or use --code files."
        )
    return CodeSource(
        config=f"{_PACKED}/{config.relative_to(root)}" if inside else str(config),
        env_vars=_path_and_name(_PACKED, root),
        packager=run.GitArchivePackager(basepath=str(root), include_submodules=False),
    )


def _from_files(config: Path) -> CodeSource:
    """The config lies beside the package in the snapshot."""
    return CodeSource(
        config=f"{_PACKED}/{config.name}",
        env_vars=_path_and_name(_PACKED),
        packager=run.PatternPackager(
            include_pattern=[str(PACKAGE), str(config)],
            relative_path=[str(ROOT), str(config.parent)],
        ),
    )


def _path_and_name(folder: str, root: Path = ROOT) -> dict[str, str]:
    """Expanded by the batch script's shell: what PYTHONPATH holds already stays, behind it."""
    return {
        "PYTHONPATH": shlex.quote(folder) + "${PYTHONPATH:+:$PYTHONPATH}",
        "AR3PO_CODE": read_code(root / "megatron_ar3po").name,
    }


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(
            f"--code git needs a git checkout, and {root} is none ({error}); use --code files or here."
        ) from error
    return done.stdout.strip()
