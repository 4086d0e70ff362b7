"""Prompts as columns of an Arrow file: mapped from disk where there is a file, else in memory, and objects only while
they are looked at.

    prompt_id   token_ids   ground_truth   text   source   metadata (JSON)   file   line

Promises: a row gives the prompt that was added; what a table holds in memory beyond its file is 16 bytes a row (the
ids). `file` and `line` say where a row stands among the data files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa

from megatron_ar3po.types import Prompt

_BATCH_ROWS = 4096
_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.binary(16)),
        ("token_ids", pa.list_(pa.int32())),
        ("ground_truth", pa.large_string()),
        ("text", pa.large_string()),
        ("source", pa.large_string()),
        ("metadata", pa.large_string()),
        ("file", pa.int32()),
        ("line", pa.int64()),
    ]
)


class Origin(NamedTuple):
    file: int  # its index among the data files
    line: int


class TableWriter:
    """Rows into `sink`, a path or a buffer. `close` ends the file."""

    def __init__(self, sink: Any) -> None:
        self._writer = pa.ipc.new_file(sink, _SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        self._columns = (_to_ids, _to_lists, *[_to_strings] * 4, _to_int32, _to_int64)

    def add(self, prompt: Prompt, origin: Origin) -> None:
        self._rows.append(
            (
                bytes.fromhex(prompt.prompt_id),
                prompt.token_ids,
                prompt.ground_truth,
                prompt.text,
                prompt.source,
                json.dumps(prompt.metadata) if prompt.metadata else "",
                *origin,
            )
        )
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        self._flush()
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = [
            make(values)
            for make, values in zip(self._columns, zip(*self._rows, strict=True), strict=True)
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._rows = []


class PromptTable(Sequence[Prompt]):
    """Made by `make_table`, `open_table` or `read_table`."""

    def __init__(self, table: pa.Table, origin: Path | pa.Buffer) -> None:
        self._table = table
        self._from = origin
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...

    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        batch = self._batches[number]
        return _prompt_of(batch.slice(index - int(self._ends[number]) + batch.num_rows, 1), 0)

    def __iter__(self) -> Iterator[Prompt]:
        for batch in self._batches:
            yield from (_prompt_of(batch, row) for row in range(batch.num_rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptTable) and self._table.equals(other._table)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process: the path of its file, or its bytes."""
        if isinstance(self._from, Path):
            return open_table, (self._from,)
        return read_table, (self._from.to_pybytes(),)

    @cached_property
    def ids(self) -> np.ndarray[Any, Any]:
        """[rows, 16] bytes."""
        found = [_values_of(batch.column("prompt_id"), "V16") for batch in self._batches]
        found = [ids.view(np.uint8).reshape(-1, 16) for ids in found]
        return np.concatenate(found) if found else np.empty((0, 16), np.uint8)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of each prompt."""
        found = [np.empty(0, np.int64)]
        for batch in self._batches:
            column = batch.column("token_ids")
            ends = np.frombuffer(column.buffers()[1], "i4")[column.offset :][: len(column) + 1]
            found.append(np.diff(ends).astype(np.int64))
        return np.concatenate(found)

    @property
    def sources(self) -> list[str]:
        """Each once."""
        return sorted(
            {
                source
                for batch in self._batches
                for source in batch.column("source").unique().to_pylist()
            }
        )

    def num_rows_by_file(self, num_files: int) -> list[int]:
        """Rows stand in the order of their files."""
        counts = np.zeros(num_files, np.int64)
        for batch in self._batches:
            counts += np.bincount(_values_of(batch.column("file"), "i4"), minlength=num_files)
        return [int(count) for count in counts]

    def origin_of(self, index: int) -> Origin:
        row = self._table.slice(index, 1)
        return Origin(row.column("file")[0].as_py(), row.column("line")[0].as_py())

    def give_name(self, path: Path) -> None:
        """To the file that it is mapped from."""
        assert isinstance(self._from, Path)
        self._from = self._from.replace(path)

    def write_rows(self, writer: TableWriter, keep: np.ndarray[Any, Any]) -> None:
        """Those for which `keep`, a boolean of each row, is true."""
        first = 0
        for batch in self._batches:
            bits = np.packbits(keep[first : first + batch.num_rows], bitorder="little")
            mask = pa.Array.from_buffers(pa.bool_(), batch.num_rows, [None, pa.py_buffer(bits)])
            writer.add_batch(batch.filter(mask))
            first += batch.num_rows


def make_table(fill: Callable[[TableWriter], None], path: Path | None) -> PromptTable:
    """Of the rows that `fill` writes: at `path`, or in memory."""
    sink = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
    with sink:
        writer = TableWriter(sink)
        fill(writer)
        writer.close()
        content = sink.getvalue() if path is None else None
    return read_table(content) if path is None else open_table(path)


def open_table(path: Path) -> PromptTable:
    """Maps the file. Raises OSError or ValueError where it is no whole one."""
    with pa.memory_map(str(path)) as source:
        return PromptTable(pa.ipc.open_file(source).read_all(), path)


def read_table(content: bytes | pa.Buffer) -> PromptTable:
    buffer = pa.py_buffer(content)
    return PromptTable(pa.ipc.open_file(buffer).read_all(), buffer)


def _prompt_of(batch: pa.RecordBatch, row: int) -> Prompt:
    def value(name: str) -> Any:
        return batch.column(name)[row].as_py()

    metadata = value("metadata")
    return Prompt(
        prompt_id=value("prompt_id").hex(),
        token_ids=tuple(value("token_ids")),
        ground_truth=value("ground_truth"),
        text=value("text"),
        source=value("source"),
        metadata=json.loads(metadata) if metadata else {},
    )


# Columns are made of buffers: pyarrow looks at lists with pandas, where that is installed, and imports it for seconds.


def _values_of(column: Any, dtype: str) -> np.ndarray[Any, Any]:
    values = np.frombuffer(column.buffers()[1], dtype)
    return values[column.offset : column.offset + len(column)]


def _to_numbers(values: Any, kind: pa.DataType, dtype: str) -> Any:
    content = np.asarray(values, dtype)
    return pa.Array.from_buffers(kind, len(content), [None, pa.py_buffer(content)])


def _to_int32(values: Sequence[int]) -> Any:
    return _to_numbers(values, pa.int32(), "i4")


def _to_int64(values: Sequence[int]) -> Any:
    return _to_numbers(values, pa.int64(), "i8")


def _to_ids(values: Sequence[bytes]) -> Any:
    content = pa.py_buffer(b"".join(values))
    return pa.Array.from_buffers(pa.binary(16), len(values), [None, content])


def _to_lists(values: Sequence[Sequence[int]]) -> Any:
    ends = np.cumsum([0, *map(len, values)], dtype="i4")
    inner = np.fromiter(itertools.chain.from_iterable(values), "i4", count=int(ends[-1]))
    return pa.ListArray.from_arrays(
        _to_numbers(ends, pa.int32(), "i4"), _to_numbers(inner, pa.int32(), "i4")
    )


def _to_strings(values: Sequence[str]) -> Any:
    content = [value.encode("utf-8") for value in values]
    ends = np.cumsum([0, *map(len, content)], dtype="i8")
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(content))]
    return pa.Array.from_buffers(pa.large_string(), len(content), buffers)
