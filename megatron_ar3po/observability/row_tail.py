"""`RowTail`: the rows of a JSONL file as they are written, by this process or by another one, here or elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from megatron_ar3po.file_digests import DamagedLineError, unseal_row


class RowTail:
    """Reads what is new each time. A file that was cut back, as by a resume, is read from its beginning again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0
        self.num_restarts = 0  # how often it was cut back: what was read before counts no more
        self.damaged: list[str] = []  # a sentence for each line that was passed over

    def read(self) -> list[dict[str, Any]]:
        """Whole lines only; a file that is not there has none. A line that is not what was written is passed over: the
        rows behind it count."""
        try:
            with self._path.open("rb") as file:
                self._notice_a_cut(file.fileno())
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        rows = [self._read_row(line) for line in whole.split(b"\n") if line]
        self._offset += len(whole)
        return [row for row in rows if row is not None]

    def _notice_a_cut(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if self._offset and (found.st_ino != self._inode or found.st_size < self._offset):
            self._offset = 0
            self.num_restarts += 1
            self.damaged.clear()
        self._inode = found.st_ino

    def _read_row(self, line: bytes) -> dict[str, Any] | None:
        try:
            return unseal_row(line)
        except (DamagedLineError, ValueError) as error:
            self.damaged.append(
                f"{self._path} holds a line that is not what was written ({error}); `ar3po report` names it."
            )
            return None
