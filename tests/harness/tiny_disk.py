"""A file system of its own that is really full when it is full: a tmpfs of a few MiB."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class TinyDisk:
    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Until not one byte more fits."""
        with (self.path / "ballast").open("wb", buffering=0) as file:
            for chunk in (2**20, 4096, 1):
                try:
                    while file.write(b"x" * chunk):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def make_room(self) -> None:
        (self.path / "ballast").unlink()


@contextmanager
def mount_tiny_disk(path: Path, *, mib: int) -> Iterator[TinyDisk]:
    """Skips the test where this user may not mount."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no mount here: {done.stderr.strip()}")
    try:
        yield TinyDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], timeout=30, check=True)
