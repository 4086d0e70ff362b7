"""The files of a reuse folder, and which of them are current.

A shard is `dp00_of_02.sqlite`; after resharding, `dp00_of_04.v2.sqlite`, and so on. Shards of one size and version are
a *set*. The complete set of the highest version is current; anything beside it is what an interrupted resharding left
behind, or what a finished one made obsolete. So a resharding becomes true in one step, with the name of its last file.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from megatron_ar3po.reuse.database import ReuseStoreError, open_for_reading, read_state

_REPLACING_S = 0.5
_FILE_NAME = re.compile(r"dp(\d+)_of_(\d+)(?:\.v(\d+))?\.sqlite")


def prompt_key(prompt_id: str) -> int:
    """The first 64 bits of a prompt id as SQLite's signed integer."""
    return int(prompt_id[:16], 16) - (1 << 63)


@dataclass(frozen=True, slots=True, order=True)
class ShardSet:
    """All shards that were made for one DP size by one (re)sharding."""

    version: int
    dp_size: int

    def path(self, folder: Path, dp_rank: int) -> Path:
        version = f".v{self.version}" if self.version > 1 else ""
        return folder / f"dp{dp_rank:02d}_of_{self.dp_size:02d}{version}.sqlite"

    def paths(self, folder: Path) -> list[Path]:
        return [self.path(folder, rank) for rank in range(self.dp_size)]

    def missing(self, folder: Path) -> list[Path]:
        return [path for path in self.paths(folder) if not path.exists()]


def shard_sets(folder: Path) -> list[ShardSet]:
    """Every set of which the folder holds at least one file, oldest first."""
    matches = [_FILE_NAME.fullmatch(path.name) for path in folder.glob("dp*.sqlite")]
    return sorted({ShardSet(int(m[3] or 1), int(m[2])) for m in matches if m})


def current_set(folder: Path, *, dp_size: int | None = None) -> ShardSet | None:
    """The set that holds the store's truth; None where nothing was stored yet, or where the first shards of `dp_size`
    are being made this moment by other leaders. Raises when shards are missing."""
    sets = shard_sets(folder)
    complete = _last_complete(folder, sets)
    if complete or not sets or sets == [ShardSet(1, dp_size or 0)]:
        return complete
    time.sleep(_REPLACING_S)  # another leader may just be removing the old set: look twice
    sets = shard_sets(folder)
    complete = _last_complete(folder, sets)
    with_answers = [s for s in sets if has_answers(folder, s)]
    if complete or not with_answers:
        return complete
    missing = ", ".join(path.name for path in with_answers[-1].missing(folder))
    raise ReuseStoreError(
        f"{folder} holds only a part of its shards: {missing} is missing. Bring the file back, or remove the whole "
        "folder to start with an empty store."
    )


def has_answers(folder: Path, shard_set: ShardSet) -> bool:
    """Whether any shard of the set ever held a response."""
    return any(path.exists() and not _is_empty(path) for path in shard_set.paths(folder))


def _last_complete(folder: Path, sets: list[ShardSet]) -> ShardSet | None:
    return next((s for s in reversed(sets) if not s.missing(folder)), None)


def remove_other_sets(folder: Path, keep: ShardSet) -> list[str]:
    """Deletes what an interrupted or finished resharding left beside the current set. Returns the names."""
    removed = []
    for shard_set in shard_sets(folder):
        if shard_set != keep:
            removed += [path.name for path in shard_set.paths(folder) if remove_shard(path)]
    return removed


def remove_shard(path: Path) -> bool:
    existed = path.exists()
    for companion in (
        path,
        Path(f"{path}-journal"),
        path.with_suffix(".owner"),
        path.with_suffix(".building"),
    ):
        companion.unlink(missing_ok=True)
    return existed


def _is_empty(path: Path) -> bool:
    connection = open_for_reading(path)
    try:
        return read_state(connection, path).next_id == 1
    finally:
        connection.close()
