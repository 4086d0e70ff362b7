"""The ids of many prompts, and the order of an epoch, as arrays: at a million prompts 20 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from megatron_ar3po.data.prompt_table import PromptTable
from megatron_ar3po.types import Prompt

_CHUNK = 65536
_ID_BYTES = 16
Array = np.ndarray[Any, Any]


class PromptIds:
    """By index, as text. Of a table its bytes are kept, of other prompts their texts."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._table = prompts.ids if isinstance(prompts, PromptTable) else None
        self._texts = [] if self._table is not None else [prompt.prompt_id for prompt in prompts]

    def __len__(self) -> int:
        return len(self._texts) if self._table is None else len(self._table)

    def __getitem__(self, index: int) -> str:
        return self._texts[index] if self._table is None else self._table[index].tobytes().hex()

    def in_order(self, order: Array | None = None) -> Iterator[str]:
        """All of them, as they stand or in another order."""
        if self._table is None:
            yield from self._texts if order is None else (self._texts[i] for i in order)
            return
        for start in range(0, len(self), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = self._table[part] if order is None else self._table[order[part]]
            text = rows.tobytes().hex()
            yield from (text[i : i + 2 * _ID_BYTES] for i in range(0, len(text), 2 * _ID_BYTES))

    def find_repeated(self) -> list[str]:
        """Some that stand there twice."""
        if self._table is None:
            seen: set[str] = set()
            return [name for name in self._texts if name in seen or seen.add(name)]
        order = np.lexsort(_as_columns(self._table))
        in_order = self._table[order]
        is_repeated = (in_order[1:] == in_order[:-1]).all(axis=1)
        return [row.tobytes().hex() for row in in_order[1:][is_repeated][:3]]

    def indices_of(self, names: Sequence[str]) -> list[int]:
        """Raises KeyError for one that is not there."""
        if self._table is None:
            return [self._index_by_text[name] for name in names]
        found = [self._find(bytes.fromhex(name)) for name in names]
        missing = [name for name, index in zip(names, found, strict=True) if index is None]
        if missing:
            raise KeyError(missing[0])
        return [index for index in found if index is not None]

    @cached_property
    def _index_by_text(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._texts)}

    @cached_property
    def _sorted(self) -> tuple[Array, Array]:
        """(the first halves of the ids, ascending; which rows they are of)."""
        assert self._table is not None
        halves = _as_columns(self._table)[1].astype(np.uint64)
        order = np.argsort(halves, kind="stable").astype(np.uint32)
        return halves[order], order

    def _find(self, name: bytes) -> int | None:
        assert self._table is not None
        halves, order = self._sorted
        half = np.uint64(int.from_bytes(name[:8], "big"))
        start = int(np.searchsorted(halves, half))
        while start < len(order) and halves[start] == half:
            if self._table[order[start]].tobytes() == name:
                return int(order[start])
            start += 1
        return None


def order_by_hash(ids: PromptIds, rows: range, salt: str) -> Array:
    """`rows`, sorted by a hash of the salt and each one's id."""
    digests = bytearray()
    names = ids.in_order(np.arange(rows.start, rows.stop))
    for name in names:
        digests += hashlib.blake2b(f"{salt}:{name}".encode(), digest_size=_ID_BYTES).digest()
    table = np.frombuffer(digests, np.uint8).reshape(-1, _ID_BYTES)
    return (np.lexsort(_as_columns(table)) + rows.start).astype(np.uint32)


def _as_columns(table: Array) -> tuple[Array, Array]:
    """[rows, 16] bytes as numbers that sort as the bytes do; the one that counts most last, as lexsort takes them."""
    numbers = np.ascontiguousarray(table).view(">u8")
    return numbers[:, 1], numbers[:, 0]
