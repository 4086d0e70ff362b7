"""An import path on which nothing is but what a machine with torch, transformers and triton has."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

INSTALLED = ("torch", "transformers", "triton")


def with_dependencies(names: tuple[str, ...]) -> set[str]:
    """What is there of them, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            required = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:  # CUDA's packages, of a torch without
            continue
        found.add(name)
        waiting += [r.name for r in required if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def link_packages(folder: Path, names: set[str]) -> Path:
    """`folder` with a link for each of their packages: a PYTHONPATH for the Python of an empty environment."""
    folder.mkdir(parents=True)
    for name in names:
        parts = distribution(name)
        for top in {file.parts[0] for file in parts.files or [] if file.parts[0] != ".."}:
            there = Path(str(parts.locate_file(top)))
            if there.exists() and not (folder / top).exists() and top != "__pycache__":
                (folder / top).symlink_to(there)
    return folder
