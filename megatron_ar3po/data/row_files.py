"""The rows of a data file, as they stand there: JSONL, one object a line, or Parquet. Values are Python's own.

Promises: memory is that of one line, or of one row group of a Parquet file; what is no row is named by file and line
(a Parquet file's rows count from 1), and the rows behind it can still be read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID

Row = dict[str, Any]
OnBroken = Callable[[str], None]
_PARQUET_MAGIC = b"PAR1"


def refuse_broken(problem: str) -> None:
    """What `read_rows` does about a broken row unless it is told otherwise."""
    raise ValueError(problem)


def read_rows(path: Path, on_broken: OnBroken = refuse_broken) -> Iterator[tuple[str, Row]]:
    """(file:line, object), blank lines left out. `on_broken` is told of what is no row, and reading goes on behind it.
    Raises ValueError for a file that cannot be read at all."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == _PARQUET_MAGIC or path.suffix == ".parquet"
    except OSError as error:
        raise ValueError(
            f"{path}: the prompts cannot be read ({error.strerror}); give a JSONL or Parquet file."
        ) from error
    yield from (_read_parquet if is_parquet else _read_jsonl)(path, on_broken)


def get_field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field; one within another by dots, the members of a list by their index. None where there is none.

    >>> get_field({"a": {"b": [7, 8]}, "a.c": 9}, "a.b.1"), get_field({"a": {"b": 7}, "a.c": 9}, "a.c")
    (8, 9)
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Any]", value).get(part)
        elif (
            isinstance(value, list) and part.isdecimal() and int(part) < len(cast(list[Any], value))
        ):
            value = cast(list[Any], value)[int(part)]
        else:
            return None
    return value


def show(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def to_plain(value: Any) -> Any:
    """As JSON can hold it: arrays and tuples become lists, numbers of other libraries Python's own, dates text.

    >>> import numpy
    >>> to_plain({"a": numpy.array([1, 2]), "b": numpy.float64(0.5), "c": (numpy.bool_(True), None)})
    {'a': [1, 2], 'b': 0.5, 'c': [True, None]}
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [to_plain(member) for member in cast("list[Any]", value)]
    if isinstance(value, date | time | timedelta | Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    for method in ("as_py", "tolist", "item"):  # of a pyarrow scalar, a numpy array, a scalar
        if hasattr(value, method):
            return to_plain(getattr(value, method)())
    for kind in (str, int, float):  # classes of another library below these
        if isinstance(value, kind):
            return kind(value)
    raise ValueError(f"{show(value)} is of the type {type(value).__name__}, which JSON has not.")


def _read_jsonl(path: Path, on_broken: OnBroken) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:  # an integer of 5,000 digits too
                text = show(line[:400].decode("utf-8", "replace"))
                on_broken(f"{where}: not JSON ({error}): {text}; write one object a line.")
                continue
            if isinstance(record, dict):
                yield where, cast(Row, record)
            else:
                on_broken(f"{where}: {show(record)} is no JSON object; write one object a line.")


def _read_parquet(path: Path, on_broken: OnBroken) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa  # a file of lines is read without it
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: this Parquet file is cut off or damaged ({_first_line(error)}): without its end none of it can "
            "be read; fetch it again."
        ) from error
    with file:
        first = 1
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            try:
                table = file.read_row_group(group)
            except (pa.ArrowException, OSError) as error:
                on_broken(
                    f"{path}:{first}: the rows {first} to {first + num_rows - 1} (row group {group + 1}) are damaged "
                    f"({_first_line(error)}); fetch the file again."
                )
            else:
                for number, row in _convert_rows(table, path, first, on_broken):
                    yield f"{path}:{number}", row
            first += num_rows


def _convert_rows(
    table: Any, path: Path, first: int, on_broken: OnBroken
) -> Iterator[tuple[int, Row]]:
    """One by one where they do not convert together: a row that is no UTF-8 takes no other along."""
    try:
        rows = table.to_pylist()
    except (
        ValueError,
        OverflowError,
    ):  # pyarrow's errors of values, UnicodeDecodeError, dates beyond Python's
        rows = None
    for index in range(table.num_rows):
        number = first + index
        try:
            row = to_plain(rows[index] if rows else table.slice(index, 1).to_pylist()[0])
        except (ValueError, OverflowError) as error:
            on_broken(f"{path}:{number}: the row cannot be read ({_first_line(error)}); mend it.")
        else:
            yield number, row


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
