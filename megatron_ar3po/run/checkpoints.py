"""One checkpoint at a time on its way to the disk while training goes on, and the choice of the one to resume from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import PendingSave
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder, name_of
from megatron_ar3po.run.manifest import find_damage
from megatron_ar3po.run.row_files import RowFiles
from megatron_ar3po.run.state import RunState

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.05
_MOST_NAMED = 4


class Choice(NamedTuple):
    checkpoint: Path | None  # None: the run starts anew
    note: str  # what a person should know of it; may be ""


def choose_checkpoint(folder: CheckpointFolder, ranks: Ranks) -> Choice:
    """Collective over all ranks: the newest whole checkpoint of the run's line, every file of it held against its
    checksum, the ranks sharing the reading. A damaged one is passed over for its parent, and that is said. Raises
    ValueError where none is whole. Changes nothing."""

    def line_to_resume() -> list[Path]:
        newest = folder.newest()
        return [] if newest is None else folder.lineage(newest)

    line = ranks.run_on_first(line_to_resume)
    problems: list[str] = []
    for checkpoint in line:
        mine = find_damage(checkpoint, part=ranks.layout.rank, num_parts=ranks.layout.world_size)
        damage = next(filter(None, ranks.gather(mine)), "")
        if not damage:
            note = ranks.run_on_first(partial(folder.note_on, checkpoint, problems))
            return Choice(checkpoint, note)
        problems.append(damage)
    if problems:
        raise ValueError(
            f"no whole checkpoint to resume from: {'; '.join(problems)}. Bring the files back, or start a new run "
            "(run.resume=false and another run.dir)."
        )
    return Choice(None, f"{folder.path} holds no checkpoint: the run starts anew")


class CheckpointSaver:
    """Every method is collective over all ranks."""

    def __init__(
        self,
        folder: CheckpointFolder,
        ranks: Ranks,
        save_model: Callable[[Path], PendingSave],
        on_commit: Callable[[RunState], None],
        *,
        timeout_s: float,
        row_files: RowFiles | None = None,
        check_ownership: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_commit(oldest)`, on leaders: no resume will go back before the state `oldest`. `row_files`: of the run,
        measured with each checkpoint. `check_ownership` raises where another process has the run's folder now:
        nothing is begun or committed then."""
        self._check_ownership = check_ownership
        self._folder, self._ranks, self._save_model = folder, ranks, save_model
        self._on_commit, self._timeout_s = on_commit, timeout_s
        self._row_files = row_files
        self._pending: _OnItsWay | None = None
        self._newest = ""  # what the run resumed from, or saved last

    def go_on_from(self, checkpoint: Path) -> None:
        """A run resumes from `checkpoint`: it is the parent of the next one."""
        self._ranks.run_on_first(lambda: self._folder.go_on_from(checkpoint))
        self._newest = checkpoint.name

    def start(self, state: RunState) -> None:
        """Returns as soon as training may go on; the checkpoint before must have arrived. Does nothing where no step
        was made since that one, or since the one that the run resumed from: a run may be asked to stop right after a
        checkpoint that was due."""
        self.wait()
        if name_of(state.step) == self._newest:
            return
        self._ranks.run_on_first(self._check_ownership)
        folder = self._ranks.run_on_first(lambda: self._folder.begin(state.step))
        if (rows := self._row_files) is not None:
            state = replace(state, row_files=self._ranks.run_on_first(rows.measure))
        self._pending = _OnItsWay(state, folder, self._save_model(folder / "model"))

    def poll(self) -> Path | None:
        """Commits a checkpoint that every rank has written; its folder then, else None."""
        if self._pending is None or not all(self._ranks.gather(self._pending.model.is_written())):
            return None
        pending, self._pending = self._pending, None
        mine = pending.model.finish()
        digests = {f"model/{n}": d for part in self._ranks.gather(mine) for n, d in part.items()}
        self._ranks.run_on_first(self._check_ownership)
        path = self._ranks.run_on_first(
            lambda: self._folder.commit(pending.folder, pending.state, digests)
        )
        self._newest = path.name
        oldest = self._ranks.run_on_first(self._folder.oldest)
        self._ranks.run_on_leader(lambda: self._on_commit(oldest))
        logger.info("saved %s (%.1f s on its way)", path, time.monotonic() - pending.started)
        if missing := self._ranks.run_on_first(self._folder.missing_room):
            logger.warning("%s: the next save would end the run", missing)
        return path

    def wait(self) -> None:
        """Until the checkpoint on its way, if any, is committed."""
        while (pending := self._pending) is not None:
            is_late = time.monotonic() - pending.started > self._timeout_s
            is_written = pending.model.is_written()
            # Where the others read who it is that is waited for.
            with self._ranks.watch.phase("written" if is_written else "writing"):
                if self.poll() is None and self._ranks.any(is_late):
                    self._raise_late(pending)
                time.sleep(_POLL_INTERVAL_S)

    def _raise_late(self, pending: _OnItsWay) -> None:
        """Collective: the ranks that still write are named."""
        written = self._ranks.gather((pending.model.is_written(), self._ranks.watch.status().who))
        late = [who for is_written, who in written if not is_written]
        by = f" by {', '.join(late[:_MOST_NAMED])}" if late else ""
        more = f" and {len(late) - _MOST_NAMED} more" if len(late) > _MOST_NAMED else ""
        raise RuntimeError(
            f"checkpoint {pending.folder} was not written within checkpoint.timeout_s={self._timeout_s:g}{by}{more}; "
            "raise it, or look at the disk there. The checkpoint before it stays whole (run.resume=true)."
        )


@dataclass(frozen=True, slots=True)
class _OnItsWay:
    state: RunState
    folder: Path
    model: PendingSave
    started: float = field(default_factory=time.monotonic)
