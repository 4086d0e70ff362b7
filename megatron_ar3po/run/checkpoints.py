"""The folder of checkpoints, and one checkpoint on its way to the disk while training goes on.

    RUN/checkpoints/step_00010/state.json      the run's state
    RUN/checkpoints/step_00010/model/          the actor's distributed checkpoint
    RUN/checkpoints/latest                     the name of the newest complete one

A checkpoint is written under a temporary name and renamed when every rank has finished; `latest` is replaced last, so
a run killed at any moment finds a whole checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import PendingSave
from megatron_ar3po.run.durable import write_durably
from megatron_ar3po.run.state import RunState, read_state

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.05


class CheckpointFolder:
    """Names, the atomic marker, and which ones stay. Rank 0 calls the methods that write."""

    def __init__(self, path: Path, *, keep_last: int) -> None:
        self._path = path
        self._keep_last = keep_last

    def begin(self, step: int) -> Path:
        """An empty temporary folder for the actor's part. What a killed run has left in the middle goes."""
        for left in self._path.glob("step_?????.tmp"):
            shutil.rmtree(left)
        folder = self._path / f"step_{step:05d}.tmp"
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


class CheckpointSaver:
    """One checkpoint at a time on its way to the disk. Every method is collective over all ranks."""

    def __init__(
        self,
        folder: CheckpointFolder,
        ranks: Ranks,
        save_model: Callable[[Path], PendingSave],
        on_commit: Callable[[RunState], None],
        *,
        timeout_s: float,
    ) -> None:
        """`on_commit(oldest)`, on leaders: no resume will go back before the state `oldest`."""
        self._folder, self._ranks, self._save_model = folder, ranks, save_model
        self._on_commit, self._timeout_s = on_commit, timeout_s
        self._pending: _OnItsWay | None = None

    def start(self, state: RunState) -> None:
        """Returns as soon as training may go on; the checkpoint before must have arrived."""
        self.wait()
        folder = self._ranks.run_on_first(lambda: self._folder.begin(state.step))
        self._pending = _OnItsWay(state, folder, self._save_model(folder / "model"))

    def poll(self) -> Path | None:
        """Commits a checkpoint that every rank has written; its folder then, else None."""
        if self._pending is None or not all(self._ranks.gather(self._pending.model.is_written())):
            return None
        pending, self._pending = self._pending, None
        pending.model.finish()
        path = self._ranks.run_on_first(lambda: self._folder.commit(pending.folder, pending.state))
        oldest = self._ranks.run_on_first(self._folder.oldest)
        self._ranks.run_on_leader(lambda: self._on_commit(oldest))
        logger.info("saved %s (%.1f s on its way)", path, time.monotonic() - pending.started)
        return path

    def wait(self) -> None:
        """Until the checkpoint on its way, if any, is committed."""
        while (pending := self._pending) is not None:
            is_late = time.monotonic() - pending.started > self._timeout_s
            if self.poll() is None and self._ranks.any(is_late):
                raise RuntimeError(
                    f"checkpoint {pending.folder} was not written within checkpoint.timeout_s={self._timeout_s:g}; "
                    "raise it, or look at the disk. The checkpoint before it stays whole (run.resume=true)."
                )
            time.sleep(_POLL_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class _OnItsWay:
    state: RunState
    folder: Path
    model: PendingSave
    started: float = field(default_factory=time.monotonic)
