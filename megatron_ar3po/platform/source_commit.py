"""Which commit of this package runs: where it stands in a checkout, as an editable install does."""

from __future__ import annotations

import subprocess
from pathlib import Path

_LIMIT_S = 10.0


def read_commit(folder: Path | None = None) -> str:
    """Of the checkout that holds `folder` (this package), with "+" behind it where tracked files of it were changed;
    "" where there is none, or no git."""
    root = folder or Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    try:
        commit = _run([*git, "rev-parse", "HEAD"])
        changed = _run([*git, "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):  # no git, or not our checkout
        return ""
    return f"{commit}+" if changed else commit


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    return done.stdout.strip()
