"""Packages that must not lie in the project's own environment, in a folder of their own that is kept between runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"
INSTALL_TIMEOUT_S = 600


def installed_apart(name: str, requirements: Path) -> Path:
    """.cache/NAME/DIGEST, without dependencies; made whole or not at all: another run may be making it now."""
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / name / digest
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{digest}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--target", str(partial), "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
        assert done.returncode == 0, f"{name} could not be installed:\n{done.stderr[-3000:]}"
        if not folder.is_dir():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
