"""`Metrics`: the records of one step, reduced over all replicas into one row, and the rows read again.

Every rank may record; only leaders' records count, so that ranks of one replica which hold the same groups do not count
them twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.records import Max, Record, Records, Sum, merge_records

# What has been spent since the run began, kept over a resume.
RUNNING_TOTALS = {
    "rollout/responses_generated": "rollout/responses_total",
    "rollout/tokens_generated": "rollout/tokens_total",
    "reuse/borrowed_groups": "reuse/borrowed_groups_total",
    "actor/skipped_updates": "actor/skipped_updates_total",
}


class Metrics:
    """Collects the records of one step, then reduces them over all ranks and hands the row to the sinks."""

    def __init__(self, ranks: Ranks, folder: Path, *, tensorboard: bool) -> None:
        self._ranks = ranks
        self._records = Records()
        self.totals: dict[str, float] = dict.fromkeys(RUNNING_TOTALS.values(), 0.0)
        self._path = folder / "metrics.jsonl"
        self._board = None
        if tensorboard and ranks.is_first:
            from torch.utils.tensorboard.writer import (
                SummaryWriter,
            )  # slow to import, and not wanted everywhere

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def add(self, *many: Mapping[str, Record]) -> None:
        if self._ranks.is_leader:
            self._records.add_all(*many)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Seconds spent inside, as `time/NAME_s`: summed within the step, the slowest rank's figure. While it lasts
        it is this rank's phase in RUN/status."""
        start = time.perf_counter()
        try:
            with self._ranks.watch.phase(name):
                yield
        finally:
            seconds = time.perf_counter() - start
            key = f"time/{name}_s"
            there = self._records.get(key)
            if self._ranks.is_leader:
                self._records[key] = Max(seconds + (there.value if there else 0.0))

    def flush(self, step: int) -> dict[str, float]:
        """Collective over all ranks. Reduces, writes the step's row, starts anew; the row on every rank."""
        reduced = merge_records(*self._ranks.gather(self._records))
        self._records = Records()
        for name, total in RUNNING_TOTALS.items():
            if name in reduced:
                self.totals[total] += reduced[name].value
                reduced[total] = Sum(self.totals[total])
        row = {name: float(record.value) for name, record in sorted(reduced.items())}
        if self._ranks.is_first:
            self._write(step, row)
        return row

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: _plain(v) for k, v in row.items()}}) + "\n")
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _plain(value: float) -> float | int | None:
    """JSON has no NaN: null says so, and a count is written as a count."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else round(value, 8)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a torn last line (the run was killed while writing) is left out. Cut at newlines
    alone: responses may hold U+2028 and its like, which str.splitlines takes for the end of a line."""
    lines = path.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:  # half a character of a torn line is no UTF-8 either
            if number < len(lines):
                raise ValueError(
                    f"{path}:{number} is not JSON; the file was edited or the disk is damaged."
                ) from None
    return rows


def drop_rows_after(path: Path, step: int) -> int:
    """A run resumed from `step` writes the later rows anew: the old ones go. Returns how many went."""
    if not path.is_file():
        return 0
    rows = read_rows(path)
    kept = [row for row in rows if row.get("step", step) <= step]
    temporary = path.with_suffix(".tmp")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(path)
    return len(rows) - len(kept)
