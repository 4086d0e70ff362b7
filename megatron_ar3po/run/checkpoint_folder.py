"""The folder of checkpoints: names, which one a resume takes, which ones stay.

    RUN/checkpoints/step_00010/state.json        the run's state
    RUN/checkpoints/step_00010/model/            the actor's distributed checkpoint
    RUN/checkpoints/step_00010/manifest.json     every file's size and checksum; the checkpoint it went on from
    RUN/checkpoints/latest                       the name of the newest one
    RUN/checkpoints/committing                   while `latest` is being moved: to where
    RUN/checkpoints/abandoned/                   of a line that the run left by going back

Promises:
- a checkpoint is written under a temporary name and renamed when it is whole: killed at any moment, a run finds a whole
  one, and what was just committed is found even if `latest` was not moved any more;
- order is lineage: each checkpoint names its parent. What was committed last, and what `latest` names, is never
  deleted, whatever its number; of its ancestors the newest `keep_last - 1` stay;
- what is not an ancestor (the run went back to an earlier checkpoint) is moved to `abandoned/` when the new line has
  its first checkpoint, or deleted with `checkpoint.abandoned=delete`.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from megatron_ar3po.disk_faults import NoRoomError, missing_room
from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.run.durable import write_durably
from megatron_ar3po.run.manifest import (
    NAME as MANIFEST,
)
from megatron_ar3po.run.manifest import (
    DamagedCheckpointError,
    Manifest,
    complete_digests,
    read_manifest,
    write_manifest,
)
from megatron_ar3po.run.state import RunState, read_state

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{5,})")
_HALF = "step_*.tmp"  # what a killed run has left in the middle, of a save or of a removal


class CheckpointFolder:
    """Rank 0 calls the methods that write."""

    def __init__(
        self,
        path: Path,
        *,
        keep_last: int,
        abandoned: Literal["keep", "delete"] = "keep",
        first_bytes: int = 0,
    ) -> None:
        """`first_bytes`: about what the first checkpoint will take; later ones take what the one before took."""
        self.path = path
        self._first_bytes = first_bytes
        self._keep_last = keep_last
        self._abandoned = abandoned
        self._parent = ""  # of the checkpoint that is written next

    def go_on_from(self, checkpoint: Path) -> None:
        """A run resumes from `checkpoint`: it is the parent of the next one, and `latest` names it until then."""
        self._parent = checkpoint.name
        if self._read_name("latest") != checkpoint.name:
            self._move_marker(checkpoint)

    def begin(self, step: int) -> Path:
        """An empty temporary folder for the actor's part. What a killed run has left in the middle goes. Raises
        `NoRoomError` before anything is written."""
        for left in self.path.glob(_HALF):
            shutil.rmtree(left)
        self.check_room()
        folder = self.path / f"{name_of(step)}.tmp"
        (folder / "model").mkdir(parents=True)
        return folder

    def check_room(self) -> None:
        """Raises `NoRoomError` where one more checkpoint would not fit."""
        if missing := self.missing_room():
            raise NoRoomError(
                f"{missing}, so none was begun; make room, or lower checkpoint.keep_last, then resume with "
                "run.resume=true. The newest one is whole."
            )

    def missing_room(self) -> str:
        """Why one more checkpoint would not fit; "" where it would."""
        num_bytes = self._bytes_of_newest() or self._first_bytes
        left = [path for half in self.path.glob(_HALF) for path in half.rglob("*")]
        to_be_removed = sum(path.stat().st_size for path in left if path.is_file())
        return missing_room(self.path, num_bytes, to_be_removed=to_be_removed)

    def _bytes_of_newest(self) -> int:
        newest = max(self.checkpoints(), key=lambda p: p.stat().st_mtime_ns, default=None)
        try:
            manifest = read_manifest(newest) if newest is not None else None
        except DamagedCheckpointError:
            manifest = None
        return sum(digest.num_bytes for digest in manifest.files.values()) if manifest else 0

    def commit(
        self, folder: Path, state: RunState, digests: Mapping[str, FileDigest] | None = None
    ) -> Path:
        """`folder` becomes the newest checkpoint. `digests`: of the files under it that were summed up while they were
        written, by path."""
        write_durably(folder / "state.json", json.dumps(asdict(state), indent=1))
        files = complete_digests(folder, digests or {})
        write_manifest(folder, Manifest(parent=self._parent, files=files))
        final = self.path / name_of(state.step)
        if final.exists():  # of a line that the run has left
            self._abandon(final)
        write_durably(self.path / "committing", final.name)
        folder.rename(final)
        self._move_marker(final)
        self._parent = final.name
        self._rotate()
        return final

    def newest(self) -> Path | None:
        """What a resume goes on from; None where no checkpoint was ever committed. Raises ValueError where that cannot
        be told: the choices are named. Changes nothing."""
        if committed := self._committed_without_marker():
            return committed
        there = self.checkpoints()
        marked = self._read_name("latest")
        if marked and (self.path / marked).is_dir():
            return self.path / marked
        if not there and not marked:
            return None
        found = f"names {marked}, which is gone" if marked else "is missing or empty"
        if not there:
            raise ValueError(
                f"{self.path / 'latest'} {found}, and {self.path} holds no checkpoint any more; start a new run "
                "(run.resume=false and another run.dir)."
            )
        raise ValueError(
            f"{self.path / 'latest'} {found}, but {self.path} holds {', '.join(p.name for p in there)}; write the name "
            "of the one to go on from into it, or start a new run (run.resume=false and another run.dir)."
        )

    def note_on(self, chosen: Path, problems: Sequence[str]) -> str:
        """What a person should know of a resume from `chosen`; "" where it is plain. `problems`: of newer ones."""
        notes = []
        if problems:
            notes.append(f"going on from {chosen}, an earlier checkpoint: {'; '.join(problems)}")
        if not (chosen / MANIFEST).is_file():
            notes.append(
                f"{chosen / MANIFEST} is missing (of a version that wrote none, or removed): whether its files are "
                "what was written cannot be told"
            )
        later = [p.name for p in self.checkpoints() if p != chosen and chosen in self.lineage(p)]
        if later and not problems:
            notes.append(
                f"{self.path / 'latest'} goes back to {chosen.name}, from which {', '.join(later)} went on"
            )
        return "; ".join(notes)

    def lineage(self, newest: Path) -> list[Path]:
        """`newest` and its ancestors that are still there, newest first. Folders that somebody copied or renamed may
        name one another: none is taken twice."""
        line = [newest]
        while (parent := self._parent_of(line[-1])) and (self.path / parent).is_dir():
            if self.path / parent in line:
                break
            line.append(self.path / parent)
        return line

    def oldest(self) -> RunState:
        """The state of the oldest checkpoint that is kept and can be read: no resume goes back to before it."""
        newest = self.newest()
        assert newest is not None, "a checkpoint was committed"
        line = self.lineage(newest)
        for checkpoint in reversed(line[1:]):
            try:
                return read_state(checkpoint)
            except (OSError, ValueError, TypeError):  # damaged since: no resume can go back to it
                logger.warning("%s cannot be read any more", checkpoint / "state.json")
        return read_state(newest)

    def checkpoints(self) -> list[Path]:
        """All that were committed, by step, whatever their line."""
        return sorted(
            (path for path in self.path.glob("step_*") if _NAME.fullmatch(path.name)), key=step_of
        )

    def _parent_of(self, checkpoint: Path) -> str:
        """Of a version that wrote no manifests: the one before it by number."""
        try:
            manifest = read_manifest(checkpoint)
        except DamagedCheckpointError:
            manifest = None
        if manifest is not None:
            return manifest.parent
        before = [p.name for p in self.checkpoints() if step_of(p) < step_of(checkpoint)]
        return before[-1] if before else ""

    def _committed_without_marker(self) -> Path | None:
        """The run was killed between the rename of a checkpoint and the move of `latest`, which is older then."""
        committing, latest = self.path / "committing", self.path / "latest"
        name = self._read_name("committing")
        if not name or not (self.path / name).is_dir():
            return None
        is_stale = latest.is_file() and latest.stat().st_mtime_ns > committing.stat().st_mtime_ns
        return None if is_stale else self.path / name

    def _move_marker(self, final: Path) -> None:
        write_durably(self.path / "latest", final.name)
        (self.path / "committing").unlink(missing_ok=True)

    def _rotate(self) -> None:
        newest = self.newest()
        assert newest is not None, "it was just committed"
        line = self.lineage(newest)
        for old in line[self._keep_last :]:
            self._delete(old)
        for other in self.checkpoints():
            if other not in line:
                self._abandon(other)

    def _delete(self, checkpoint: Path) -> None:
        """Under a name that no resume looks at: a kill in the middle leaves half a folder, which `begin` clears."""
        doomed = checkpoint.with_name(
            f"{checkpoint.name}.deleted.tmp"
        )  # NAME.tmp may be on its way
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)

    def _abandon(self, checkpoint: Path) -> None:
        """It belongs to a line that the run has left."""
        if self._abandoned == "delete":
            self._delete(checkpoint)
            logger.info(
                "deleted %s: the run went back to before it (checkpoint.abandoned=delete)",
                checkpoint,
            )
            return
        target = self.path / "abandoned" / checkpoint.name
        number = 2
        while target.exists():
            target = target.with_name(f"{checkpoint.name}.{number}")
            number += 1
        target.parent.mkdir(exist_ok=True)
        checkpoint.rename(target)
        logger.warning(
            "moved %s to %s: the run went back to before it and took another way; delete it when it is not wanted "
            "(checkpoint.abandoned=delete does from the start)",
            checkpoint,
            target,
        )

    def _read_name(self, marker: str) -> str:
        """The name of a checkpoint that stands in a marker file; "" where there is none."""
        path = self.path / marker
        name = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        return name if _NAME.fullmatch(name) else ""


def name_of(step: int) -> str:
    return f"step_{step:05d}"


def step_of(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None, f"{checkpoint} is no checkpoint's name"
    return int(match[1])
