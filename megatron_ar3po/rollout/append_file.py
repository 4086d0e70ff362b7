"""`AppendFile`: lines that outlive the process at once, and the node a little later."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.disk_faults import naming


class AppendFile:
    """`append` hands a line to the kernel in one write: a process that is killed loses none. A thread of its own
    brings them to the disk every `sync_s` seconds, for nobody to wait; with `sync_s=0` the caller does it (`sync`).

    A line that a killed process left half written is ended first, so that it spoils no other."""

    def __init__(
        self, path: Path, *, sync_s: float, fsync: Callable[[int], None] = os.fsync
    ) -> None:
        """Raises ValueError where the file cannot be opened. What the disk refuses later is an OSError with its path,
        from every method (`disk_faults`)."""
        self.path = path
        self._fsync = fsync
        self._is_dirty = False
        self._is_named = False  # on the disk: in its folder
        self._failure: OSError | None = None
        self._stop = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")
        except OSError as error:
            raise ValueError(
                f"{path} cannot be written ({error.strerror}); make room or mend its permissions. run.resume=true goes "
                "on with the responses that were written before."
            ) from error
        self._thread = threading.Thread(
            target=self._sync_every, args=(sync_s,), name="response log", daemon=True
        )
        if sync_s > 0:
            self._thread.start()

    def append(self, line: bytes) -> None:
        with naming(self.path):
            if self._failure is not None:
                raise self._failure
            written = os.write(self._fd, line)
            while written < len(line):  # a disk about to be full takes a part
                written += os.write(self._fd, line[written:])
        self._is_dirty = True

    def sync(self) -> None:
        """What was appended is on the disk when this returns."""
        with naming(self.path):
            self._sync()

    def close(self) -> None:
        """On the disk, too."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self.sync()
        finally:
            os.close(self._fd)

    def _sync_every(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            try:
                self._sync()
            except OSError as error:  # raised where the next line is appended
                self._failure = error
                return

    def _sync(self) -> None:
        if not self._is_dirty:
            return
        self._is_dirty = False
        self._fsync(self._fd)
        if not self._is_named:
            self._sync_folder()
            self._is_named = True

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            self._fsync(folder)
        finally:
            os.close(folder)
