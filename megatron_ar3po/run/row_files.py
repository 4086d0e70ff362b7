"""The files that grow by rows as a run goes (metrics, rollouts, ledger), held against what they were at a checkpoint.

A checkpoint's state says how long each was when it was made and what its bytes came to: what is appended later lies
behind that, and a resume may look whether what it goes on from is still what was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.observability.row_file import read_rows

_PATTERNS = ("metrics.jsonl", "rollouts.jsonl", "ledger/*.jsonl")
_CHUNK_BYTES = 8 * 1024 * 1024


def find_row_files(folder: Path) -> list[Path]:
    return sorted(path for pattern in _PATTERNS for path in folder.glob(pattern))


class RowFiles:
    """Of the run in `folder`. What was read once is not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sums: dict[str, _RunningSum] = {}

    def measure(self) -> dict[str, FileDigest]:
        """By path in the run's folder, as they are now. Between steps, on one rank."""
        found: dict[str, FileDigest] = {}
        for path in find_row_files(self._folder):
            name = path.relative_to(self._folder).as_posix()
            found[name] = self._sums.setdefault(name, _RunningSum()).extend(path)
        return found


@dataclass
class _RunningSum:
    total: Any = field(default_factory=xxhash.xxh3_128)
    num_bytes: int = 0

    def extend(self, path: Path) -> FileDigest:
        """By what was appended to `path` since the last time."""
        with path.open("rb") as file:
            file.seek(self.num_bytes)
            while chunk := file.read(_CHUNK_BYTES):
                self.total.update(chunk)
                self.num_bytes += len(chunk)
        return FileDigest(self.num_bytes, self.total.hexdigest())


def check_row_files(folder: Path, written: Mapping[str, FileDigest]) -> list[str]:
    """Raises ValueError where the run in `folder` holds other rows than were `written` when its checkpoint was made, or
    some that cannot be read. Given back: a sentence for each file that is gone."""
    gone = []
    for name, digest in written.items():
        path = folder / name
        if not path.is_file():
            gone.append(f"{path} is gone: the run goes on without its rows of the steps before")
        elif damage := _find_damage(path, digest):
            raise ValueError(
                f"{path} {damage}: rows of earlier steps are not what was written. Bring the file back, or move it "
                "away to go on without them."
            )
    for path in find_row_files(folder):
        read_rows(path)
    return gone


def _find_damage(path: Path, written: FileDigest) -> str:
    total, left = xxhash.xxh3_128(), written.num_bytes
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            total.update(chunk)
            left -= len(chunk)
    if left:
        found = written.num_bytes - left
        return f"holds {found} of the {written.num_bytes} bytes that its checkpoint knows"
    if total.hexdigest() != written.xxh3:
        return "was damaged (its checksum differs from its checkpoint's)"
    return ""
