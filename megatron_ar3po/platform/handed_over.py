"""A process that is started before it is known what it will do: it imports, and waits for its arguments.

They come as a file among its temporary ones, written by `servers.child_process`. Until then its output goes into
another one, and nothing outside of that folder has changed. The wait has no limit of its own: the guard of the process
ends it, as soon as nobody is left who could write the file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OUTPUT = "output.log"
_ARGUMENTS = "arguments.json"
_POLL_INTERVAL_S = 0.02


def hand_over(
    folder: Path, arguments: Mapping[str, Any], environment: Mapping[str, str], log: Path
) -> None:
    """What `take_over` in the process with the temporary `folder` returns, the environment it gets and its log."""
    told = {
        "arguments": dict(arguments),
        "environment": dict(environment),
        "log": str(log.absolute()),
    }
    half = folder / f"{_ARGUMENTS}.half"
    half.write_text(json.dumps(told), "utf-8")
    half.replace(folder / _ARGUMENTS)


def take_over(folder: Path) -> dict[str, Any]:
    """Waits. Then this process has the environment that it was given and writes to its log, what it has said so far
    first; returns its arguments."""
    file = folder / _ARGUMENTS
    while not file.exists():
        time.sleep(_POLL_INTERVAL_S)
    told = json.loads(file.read_text("utf-8"))
    file.unlink()  # an environment holds secrets
    os.environ.clear()
    os.environ.update(told["environment"])
    log = os.open(told["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(log, (folder / OUTPUT).read_bytes())
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    return told["arguments"]
