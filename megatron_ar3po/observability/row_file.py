"""A file of rows, one JSON object a line (metrics, rollouts, the ledger): read again, and cut back to a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.file_digests import DamagedLineError, unseal_row

_MEND = "the file was edited or the disk is damaged. Bring it back, or move it away to go on without its rows."


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All of `iter_rows`."""
    return list(iter_rows(path))


def iter_rows(
    path: Path,
    on_damage: Callable[[str], None] | None = None,
    loads: Callable[[bytes], Any] = json.loads,
) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, one by one; a torn last line (the run was killed while writing) is left out. One
    that was sealed (`file_digests.seal_row`) is held against its checksum. Raises ValueError with path and line of a
    row that is not whole, or tells `on_damage` and goes on. Cut at newlines alone: responses may hold U+2028 and its
    like, which str.splitlines takes for the end of a line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield unseal_row(line.removesuffix(b"\n"), loads)
                continue
            except DamagedLineError as error:
                damage = f"is not what was written ({error})"
            except ValueError:  # half a character of a torn line is no UTF-8 either
                # A line without its end is being written: what follows it by now is its rest.
                if not line.endswith(b"\n") or not file.peek(1):
                    return
                damage = "is not JSON"
            if on_damage is None:
                raise ValueError(f"{path}:{number} {damage}; {_MEND}")
            on_damage(f"{path.name}:{number} {damage}")


def load_quickly(line: bytes) -> Any:
    """As json.loads, for rows whose integers have 64 bits: several times as fast."""
    try:
        return orjson.loads(line)
    except ValueError:  # lone surrogates, numbers that are none
        return json.loads(line)


def drop_rows_after(path: Path, step: int) -> int:
    """A run resumed from `step` writes the later rows anew: the old ones go. Returns how many went."""
    if not path.is_file():
        return 0
    rows = read_rows(path)
    lines = path.read_bytes().split(b"\n")
    kept = [
        line + b"\n"
        for line, row in zip(lines, rows, strict=False)  # a torn last line is no row
        if row.get("step", step) <= step
    ]
    temporary = path.with_suffix(".tmp")
    with naming(path):
        temporary.write_bytes(b"".join(kept))  # to the byte: a checkpoint knows their checksum
    temporary.replace(path)
    return len(rows) - len(kept)
