"""Reads the pins beside it. Plain Python 3, no imports of the package: `setup.py` and the Dockerfile use it before
anything is installed.

    python requirements/pins.py sglang        # prints 0.5.23
    python requirements/pins.py torch gpu     # of requirements/gpu.txt
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ALL_FILES = (
    *("base", "cpu", "nodeps", "gpu", "gpu_build", "apex", "launch", "wandb", "mlflow"),
    *("test", "dev", "lock"),
)


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


def version(package: str, file: str = "") -> str:
    """The version pinned for `package` in `file`; without one in the first of base, cpu, nodeps, gpu, ..., lock."""
    pattern = re.compile(rf"{re.escape(package)}(\[[^]]*\])?==(\S+)", re.IGNORECASE)
    for name in [file] if file else ALL_FILES:
        for line in requirements(name):
            if match := pattern.fullmatch(line):
                return match.group(2)
    where = f"in {file}.txt" if file else "in any file"
    raise ValueError(
        f"{package} is not pinned {where} of {FOLDER}; add it to the file of its extra."
    )


if __name__ == "__main__":
    print(version(*sys.argv[1:3]))
