"""`PromptTable`: the records of a run's prompts in a few arrays, so that a million of them fit (at most 60 bytes each;
benchmarks/history.py). A Python dict of them would take five times as much.

A prompt is known by 64 bits of a hash of its id: that two of a million share one has a chance of 3 in 10^8.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import NamedTuple

_FIRST_SIZE = 64  # of the index; a power of two


class TableRow(NamedTuple):
    correct: float
    wrong: float
    last_step: int
    length_tokens: float
    clock: float  # what the history's clock stood at when the counts were these


class PromptTable:
    def __init__(self) -> None:
        self._keys = array("Q")
        self._correct = array("d")
        self._wrong = array("d")
        self._last_step = array("i")
        self._length = array("d")
        self._clock = array("d")
        self._index = (
            array("i", [-1]) * _FIRST_SIZE
        )  # open addressing: rows, -1 where there is none

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, prompt_id: str) -> bool:
        return self._index[self._slot(_key_of(prompt_id))] >= 0

    @property
    def num_bytes(self) -> int:
        columns = (
            self._keys,
            self._correct,
            self._wrong,
            self._last_step,
            self._length,
            self._clock,
        )
        return sum(column.__sizeof__() for column in (*columns, self._index))

    def get(self, prompt_id: str) -> TableRow | None:
        row = self._index[self._slot(_key_of(prompt_id))]
        if row < 0:
            return None
        return TableRow(
            self._correct[row],
            self._wrong[row],
            self._last_step[row],
            self._length[row],
            self._clock[row],
        )

    def put(self, prompt_id: str, new: TableRow) -> None:
        key = _key_of(prompt_id)
        slot = self._slot(key)
        row = self._index[slot]
        if row < 0:
            self._append(slot, key, new)
            return
        self._correct[row] = new.correct
        self._wrong[row] = new.wrong
        self._last_step[row] = new.last_step
        self._length[row] = new.length_tokens
        self._clock[row] = new.clock

    def _append(self, slot: int, key: int, new: TableRow) -> None:
        self._index[slot] = len(self._keys)
        self._keys.append(key)
        self._correct.append(new.correct)
        self._wrong.append(new.wrong)
        self._last_step.append(new.last_step)
        self._length.append(new.length_tokens)
        self._clock.append(new.clock)
        if 3 * len(self._keys) > 2 * len(self._index):
            self._index = array("i", [-1]) * (2 * len(self._index))
            for row, of_row in enumerate(self._keys):
                self._index[self._slot(of_row)] = row

    def _slot(self, key: int) -> int:
        """Where the key stands in the index, or would."""
        mask = len(self._index) - 1
        slot = key & mask
        while (row := self._index[slot]) >= 0 and self._keys[row] != key:
            slot = (slot + 1) & mask
        return slot


def _key_of(prompt_id: str) -> int:
    return int.from_bytes(blake2b(prompt_id.encode(), digest_size=8).digest(), "big")
