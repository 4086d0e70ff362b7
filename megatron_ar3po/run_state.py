"""`RunState`: all that a resume needs beside the weights, and the folder of checkpoints it lies in.

    RUN/checkpoints/step_00010/state.json      this file's part
    RUN/checkpoints/step_00010/model/          the actor's distributed checkpoint
    RUN/checkpoints/latest                     the name of the newest complete one

A checkpoint is written under a temporary name and renamed when every rank has finished; `latest` is replaced last, so
a run killed at any moment finds a whole checkpoint. Random choices are functions of (seed, step), so no generator's
state is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where the run stands after `step` steps."""

    step: int = 0
    policy_version: int = 0
    totals: dict[str, float] = field(default_factory=dict)  # running totals of the metrics
    prompt_cursor: dict[str, Any] = field(default_factory=dict)
    store_cursor: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def advanced(self, *, policy_version: int) -> RunState:
        return replace(self, step=self.step + 1, policy_version=policy_version)


class CheckpointFolder:
    """Names, the atomic marker, and which ones stay. Rank 0 calls the methods that write."""

    def __init__(self, path: Path, *, keep_last: int) -> None:
        self._path = path
        self._keep_last = keep_last

    def begin(self, step: int) -> Path:
        """An empty temporary folder for the actor's part."""
        folder = self._path / f"step_{step:05d}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "model").mkdir(parents=True)
        return folder

    def commit(self, folder: Path, state: RunState) -> Path:
        """`folder` becomes the newest checkpoint; the oldest beyond `keep_last` go."""
        write_durably(folder / "state.json", json.dumps(asdict(state), indent=1))
        final = self._path / f"step_{state.step:05d}"
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
        write_durably(self._path / "latest", final.name)
        for old in sorted(self._path.glob("step_?????"))[: -self._keep_last]:
            shutil.rmtree(old)
        return final

    def oldest(self) -> RunState:
        """The state of the oldest checkpoint that is kept: no resume goes back to before it."""
        return read_state(min(self._path.glob("step_?????")))

    def latest(self) -> Path | None:
        marker = self._path / "latest"
        if not marker.is_file():
            return None
        folder = self._path / marker.read_text().strip()
        if not (folder / "state.json").is_file():
            raise ValueError(
                f"{marker} names {folder.name}, which is not a whole checkpoint; write the name of another folder of "
                f"{self._path} into it, or start a new run (run.resume=false and another run.dir)."
            )
        return folder


def read_state(folder: Path) -> RunState:
    return RunState(**json.loads((folder / "state.json").read_text()))


def write_durably(path: Path, text: str) -> None:
    """Whole or not at all, also after a power failure."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
