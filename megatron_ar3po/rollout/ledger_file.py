"""The ledger's file between runs: read again, and cut where a run is taken up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.observability.row_file import iter_rows, load_quickly, read_rows


def stream_ledger(
    folder: Path, on_damage: Callable[[str], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Of all replicas, one replica after the other, in the order in which the rows were written: nothing is kept, so
    that a run of any length can be summed up. Of a prompt that was lent a response a row of its own tells
    (`rescued`). `on_damage`: as in `iter_rows`."""
    for path in sorted(folder.glob("dp*.jsonl")):
        yield from iter_rows(path, on_damage, load_quickly)


def ledger_rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a killed run may have left half of one at the end. A prompt that was lent a response has the
    outcome 'rescued' in its row."""
    rows = read_rows(path) if path.is_file() else []
    latest: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        if row["kind"] == "prompt":
            latest[row["step"], row["position"]] = row
        elif row["kind"] == "rescued":
            for position in row["positions"]:
                latest[row["step"], position]["outcome"] = "rescued"
    return rows


def abandon_rows_after(path: Path, step: int, added: Sequence[Mapping[str, Any]] = ()) -> int:
    """A run resumed from `step` does the later steps again. What they had cost stays in the ledger, marked
    `"abandoned": true`: an intent without rows too. `added` comes to the end at the same moment: whoever is killed has
    done both or neither. Returns how many rows were marked."""
    rows = read_rows(path) if path.is_file() else []
    lines = path.read_bytes().split(b"\n") if rows else []
    # Rows of an evaluation had no step once: only a run that starts anew knows that they are not its own.
    later = [
        number
        for number, row in enumerate(rows)
        if row.get("step", 0) > step and not row.get("abandoned")
    ]
    for number in later:
        lines[number] = seal_row({**rows[number], "abandoned": True})
    if added or path.is_file():  # half a line goes, if there is no other too
        temporary = path.with_suffix(".tmp")
        # To the byte, where nothing is marked: a checkpoint knows their checksum.
        written = (*lines[: len(rows)], *map(seal_row, added))
        with naming(path):
            temporary.write_bytes(b"".join(b"%s\n" % line for line in written))
        temporary.replace(path)
    return len(later)


def rows_of_run(folder: Path, *, up_to: int | None = None) -> list[dict[str, Any]]:
    """Of all replicas, whatever the layout was that wrote them, by step; none of later steps than `up_to`."""
    rows = [row for path in sorted(folder.glob("dp*.jsonl")) for row in ledger_rows(path)]
    if up_to is not None:
        rows = [row for row in rows if row.get("step", 0) <= up_to]
    return sorted(rows, key=lambda row: row.get("step", 0))
