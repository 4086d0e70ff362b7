"""Single answers of an evaluation, kept by what they are answers to, so that none is generated twice.

    STORE/<weights>/<process>.jsonl     one row an answer: its key, text, length, verdict

An answer's key is a hash of the weights that gave it, the prompt (its tokens, ground truth, verifier and template, as
its id says), the sampling and the seed. Whatever of these differs has another key, and is generated anew; a changed
verifier too. An answer for which the verifier failed, or ran out of time or memory, is not
kept.

Each process writes a file of its own, row by row: what was answered before a kill stays.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from megatron_ar3po.disk_faults import naming
from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.observability.accuracy import Mark
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.rollout.draws import Draw
from megatron_ar3po.types import FinishReason, ScoredResponse, VerdictStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One answer and what its verifier said."""

    text: str
    tokens: int
    finish_reason: FinishReason
    status: VerdictStatus
    extracted: str | None
    reason: str = ""

    @property
    def mark(self) -> Mark:
        is_correct = None if self.status == "error" else self.status == "correct"
        return Mark(is_correct, self.extracted)


def item_of(scored: ScoredResponse, text: str) -> Item:
    return Item(
        text=text,
        tokens=scored.response.num_tokens,
        finish_reason=scored.response.finish_reason,
        status=scored.verdict.status,
        extracted=scored.verdict.extracted,
        reason=scored.verdict.reason,
    )


def key_of(weights: str, draw: Draw) -> str:
    parts = [weights, draw.prompt.prompt_id, asdict(draw.sampling), draw.seed]
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())


class ItemStore:
    """Of one policy. Without `weights` (of a server that does not say them) nothing is found and nothing kept."""

    def __init__(self, folder: Path, weights: str) -> None:
        self._weights = weights
        self._folder = folder / weights[:16]
        self._file: BinaryIO | None = None
        self._items = self._read() if weights else {}

    def find(self, draw: Draw) -> Item | None:
        return self._items.get(key_of(self._weights, draw))

    def keep(self, draw: Draw, item: Item) -> None:
        key = key_of(self._weights, draw)
        has_verdict = item.status not in ("error", "ungradable")  # a slow machine may be the reason
        if not self._weights or not has_verdict or key in self._items:
            return
        self._items[key] = item
        with naming(self._folder):
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"{time.time_ns():x}_{os.getpid()}.jsonl"
                self._file = (self._folder / name).open("ab", buffering=0)
            self._file.write(seal_row({"key": key, **asdict(item)}) + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self) -> dict[str, Item]:
        """Raises ValueError, with file and line, for a row that is not what was written."""
        rows = (row for path in sorted(self._folder.glob("*.jsonl")) for row in read_rows(path))
        return {str(row["key"]): _item_of_row(row) for row in rows}


def _item_of_row(row: Mapping[str, Any]) -> Item:
    return Item(**{name: value for name, value in row.items() if name != "key"})
