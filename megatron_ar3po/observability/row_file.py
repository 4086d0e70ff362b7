"""A file of rows, one JSON object a line (metrics, rollouts, the ledger): read again, and cut back to a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.file_digests import DamagedLineError, unseal_row

_MEND = "the file was edited or the disk is damaged. Bring it back, or move it away to go on without its rows."


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a torn last line (the run was killed while writing) is left out. One that was sealed
    (`file_digests.seal_row`) is held against its checksum. Raises ValueError with path and line of a row that is not
    whole. Cut at newlines alone: responses may hold U+2028 and its like, which str.splitlines takes for the end of a
    line."""
    lines = path.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(unseal_row(line))
        except DamagedLineError as error:
            raise ValueError(
                f"{path}:{number} is not what was written ({error}); {_MEND}"
            ) from None
        except ValueError:  # half a character of a torn line is no UTF-8 either
            if number < len(lines):
                raise ValueError(f"{path}:{number} is not JSON; {_MEND}") from None
    return rows


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
