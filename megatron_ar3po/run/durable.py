"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

from megatron_ar3po.disk_faults import naming

_MARK = "# xxh3 of the lines above (edit a copy, not this file): "


def write_durably(path: Path, text: str) -> None:
    """Whole or not at all, also after a power failure."""
    temporary = path.with_name(path.name + ".tmp")
    with naming(path), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def add_checksum(text: str) -> str:
    """`text`, of whole lines, with a last line that is a comment to YAML and knows what stands above it.

    >>> has_valid_checksum(add_checksum("a: 1\\n")), has_valid_checksum("a: 1\\n")
    (True, False)
    """
    return f"{text}{_MARK}{xxhash.xxh3_128_hexdigest(text.encode())}\n"


def has_valid_checksum(text: str) -> bool:
    head, mark, _ = text.rpartition(_MARK)
    return bool(mark) and add_checksum(head) == text
