"""Reads the pins beside it. Plain Python 3, no imports of the package: `setup.py` and the Dockerfile use it before
anything is installed.

    python requirements/pins.py sglang        # prints 0.5.23
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """The requirement lines of `NAME.txt`, the files it includes with `-r` first; comments and pip options dropped."""
    found: list[str] = []
    for raw in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if line.startswith("-r "):
            found += requirements(Path(line[3:].strip()).stem)
        elif line:
            found.append(line.split(" --", 1)[0].strip())
    return found


def version(package: str) -> str:
    """The version pinned for `package`; the files are searched in the order base, cpu, nodeps, gpu, ..., lock."""
    pattern = re.compile(rf"{re.escape(package)}(\[[^]]*\])?==(\S+)", re.IGNORECASE)
    for name in ("base", "cpu", "nodeps", "gpu", "gpu_build", "launch", "dev", "lock"):
        for line in requirements(name):
            if match := pattern.fullmatch(line):
                return match.group(2)
    raise ValueError(
        f"{package} is pinned in no file of {FOLDER}; add it to the file of its extra."
    )


if __name__ == "__main__":
    print(version(sys.argv[1]))
