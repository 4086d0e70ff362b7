"""The `nemo` command with this checkout's entry point, whatever the environment was installed from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[2]


@cache
def write_entry_points() -> Path:
    """A folder with what `pip install` would have written of setup.py: first on the path, it is the one that counts."""
    folder = Path(mkdtemp(prefix="entry-points-"))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


def run_nemo(
    *words: str, folder: Path, env: Mapping[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """With its notes under folder/nemo; a wide terminal, so that no line is wrapped."""
    inherited = env or os.environ
    paths = [str(write_entry_points()), str(ROOT), inherited.get("PYTHONPATH", "")]
    return subprocess.run(
        [str(Path(sys.executable).parent / "nemo"), *words],
        cwd=folder,
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join(paths),
            "NEMORUN_HOME": str(folder / "nemo"),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
