"""Which code of this package runs: its version, its commit, a digest of its files and where they lie.

An image holds one copy of the package, and a cluster's shared folder often another. Both have a name here, so that a
node can say which of them runs and whether it is the one that was submitted. No torch, no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from megatron_ar3po.platform.source_commit import read_commit

PACKAGE = Path(__file__).resolve().parents[1]
_KINDS = {".py", ".css", ".js", ".typed"}
_COMMIT_DIGITS, _DIGEST_DIGITS = 12, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One copy of the package. Two copies are the same code where their digests are."""

    version: str
    commit: str  # "" where there is no checkout; with "+" where tracked files were changed
    digest: str
    folder: str

    @property
    def name(self) -> str:
        """One word without blanks, for an environment variable.

        >>> Code(version="0.2.0", commit="3882388f00d5+", digest="1a2b3c4d5e6f", folder="/repo").name
        '0.2.0/3882388f00d5+/1a2b3c4d5e6f'
        """
        return f"{self.version}/{self.commit or '-'}/{self.digest}"

    def __str__(self) -> str:
        return (
            f"megatron_ar3po {self.version}, commit {self.commit or 'unknown'}, files {self.digest}"
        )


def read_running_code() -> Code:
    return read_code(PACKAGE)


def read_code(package: Path) -> Code:
    """Of the package that lies in this folder. An image has no .git: its build writes AR3PO_IMAGE_COMMIT, which is
    taken for the image's copy alone."""
    root = package.parent
    commit = read_commit(root)
    if not commit and str(root) == os.environ.get("AR3PO_IMAGE_FOLDER", ""):
        commit = os.environ.get("AR3PO_IMAGE_COMMIT", "")
    found = re.search(
        r'^__version__ = "([^"]+)"', (package / "__init__.py").read_text(encoding="utf-8"), re.M
    )
    assert found is not None, f"{package}/__init__.py holds no __version__"
    changed = "+" if commit.endswith("+") else ""
    return Code(
        version=found.group(1),
        commit=commit[:_COMMIT_DIGITS].rstrip("+") + changed,
        digest=_digest_files(package),
        folder=str(root),
    )


def find_installed_package() -> Path | None:
    """The folder of the package that this interpreter has installed, whatever runs; None where it has none."""
    try:
        distribution = metadata.distribution("megatron_ar3po")
    except metadata.PackageNotFoundError:
        return None
    read_metadata = distribution.read_text  # always as UTF-8
    url = json.loads(read_metadata("direct_url.json") or "{}")
    if url.get("dir_info", {}).get("editable"):
        folder = Path(unquote(urlparse(url["url"]).path)) / "megatron_ar3po"
    else:
        folder = Path(str(distribution.locate_file("megatron_ar3po")))
    return folder if (folder / "__init__.py").is_file() else None


def _digest_files(package: Path) -> str:
    """Of names and contents, in the order of the names; neither times nor rights count."""
    digest = hashlib.sha256()
    files = [file for file in package.rglob("*") if file.suffix in _KINDS]
    for file in sorted(files, key=lambda file: file.relative_to(package).as_posix()):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGEST_DIGITS]
