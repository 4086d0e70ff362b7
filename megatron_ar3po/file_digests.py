"""What a file held when it was written: its size and a checksum, so that damage is noticed when it is read.

The checksum is xxh3 (128 bits): it finds what disks and cut-off writes do, at memory's speed, and is no defence against
somebody who means harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash

_CHUNK_BYTES = 8 * 1024 * 1024
_BEFORE_CHECKSUM = b', "xxh3": "'
_TAIL_BYTES = len(_BEFORE_CHECKSUM) + 16 + len(b'"}')


class FileDigest(NamedTuple):
    num_bytes: int
    xxh3: str  # 32 hex digits


class DigestingFile:
    """Writes through to `file` and sums up meanwhile: what is counted is what was meant to be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = xxhash.xxh3_128()
        self._num_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._hash.update(data)
        num_bytes = memoryview(data).nbytes
        self._num_bytes += num_bytes
        self._file.write(data)
        return num_bytes

    def tell(self) -> int:
        return self._num_bytes

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> FileDigest:
        return FileDigest(self._num_bytes, self._hash.hexdigest())


def digest_file(path: Path) -> FileDigest:
    """Reads it whole, a few MiB at a time."""
    total, num_bytes = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
            num_bytes += len(chunk)
    return FileDigest(num_bytes, total.hexdigest())


def explain_damage(path: Path, written: FileDigest, *, whole: bool = True) -> str:
    """What is wrong with the file at `path`, or "". `whole=False` looks at its size alone."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes != written.num_bytes:
            return f"{path} holds {num_bytes} of the {written.num_bytes} bytes that were written"
        if whole and digest_file(path) != written:
            return f"{path} does not hold what was written (its checksum differs)"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return ""


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` of a small JSON file with a checksum of itself.

    >>> unseal(seal({"parent": "step_00002"}))
    {'parent': 'step_00002'}
    """
    return {**content, "xxh3": _digest_json(content)}


def unseal(sealed: Mapping[str, Any]) -> dict[str, Any]:
    """The content that `seal` was given. Raises KeyError where there is no checksum, ValueError where it differs."""
    content = {name: value for name, value in sealed.items() if name != "xxh3"}
    if sealed["xxh3"] != _digest_json(content):
        raise ValueError("its checksum differs")
    return content


class DamagedLineError(ValueError):
    """The line does not hold what was written."""


def seal_row(row: Mapping[str, Any]) -> bytes:
    """A line of JSON, without its end, that holds a checksum of what stands before it.

    >>> seal_row({"step": 1})
    b'{"step": 1, "xxh3": "5323b881b6389a57"}'
    """
    body = json.dumps(row)[:-1].encode()
    return b'%s%s%s"}' % (body, _BEFORE_CHECKSUM, _digest_row(body))


def unseal_row(line: bytes, loads: Callable[[bytes], Any] = json.loads) -> dict[str, Any]:
    """The row of a line; one that holds no checksum is taken as it stands. Raises `DamagedLineError` where its checksum
    differs, another ValueError where it is no JSON. `loads`: a quicker reader, for millions of rows."""
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if tail.startswith(_BEFORE_CHECKSUM) and tail != b'%s%s"}' % (
        _BEFORE_CHECKSUM,
        _digest_row(body),
    ):
        raise DamagedLineError("its checksum differs")
    row = loads(line)
    if isinstance(row, dict) and tail.startswith(_BEFORE_CHECKSUM):
        del row["xxh3"]
    return row


def _digest_row(body: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(body).encode()


def _digest_json(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
