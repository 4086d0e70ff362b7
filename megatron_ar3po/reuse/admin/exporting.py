"""`ar3po reuse export`: all stored responses as JSONL or Parquet, read only; with --salvage, what is sound of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from megatron_ar3po.reuse.admin.inspection import (
    Problem,
    find_shards,
    read_rows,
    stored_responses,
)
from megatron_ar3po.reuse.database import ReuseStoreError

_PARQUET_ROWS = 1000


def export(arguments: argparse.Namespace) -> int:
    problems: list[Problem] = []
    rows = _rows_to_export(find_shards(arguments.path), problems, salvage=arguments.salvage)
    target: Path = arguments.file
    partial_file = target.with_name(f"{target.name}.partial")
    write = {".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(target.suffix)
    if write is None:
        raise ReuseStoreError(f"{target}: an export ends in .jsonl or .parquet.")
    try:
        num_rows = write(partial_file, rows)
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
    if arguments.json:
        print(json.dumps({"responses": num_rows, "damaged": len(problems), "file": str(target)}))
    else:
        for problem in problems:
            print(f"left out: {problem}")
        print(
            f"{num_rows} responses in {target}"
            + (f", {len(problems)} left out" if problems else "")
        )
    return 0


def _rows_to_export(
    shards: Sequence[Path], problems: list[Problem], *, salvage: bool
) -> Iterator[dict[str, Any]]:
    """What is alive; with `salvage` damaged rows go to `problems` instead of ending the export."""
    for shard in shards:
        for row in read_rows(shard) if salvage else stored_responses(shard):
            if isinstance(row, Problem):
                problems.append(row)
            elif row.evicted_step is None:
                yield row.as_json()


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for num_rows, row in enumerate(rows, start=1):  # noqa: B007  (counts)
            _print_line(file, row)
    return num_rows


def _print_line(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ReuseStoreError(
            "a Parquet export needs the package pyarrow; `pip install pyarrow`, or export to .jsonl."
        ) from error
    num_rows, writer = 0, None
    try:
        while page := list(islice(rows, _PARQUET_ROWS)):
            flat = [
                {**row, **{name: json.dumps(row[name]) for name in ("prompt", "sampler", "loans")}}
                for row in page
            ]
            table = pa.Table.from_pylist(flat, schema=_parquet_schema(pa))
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            num_rows += len(page)
        writer = writer or pq.ParquetWriter(path, _parquet_schema(pa), compression="zstd")
    finally:
        if writer is not None:
            writer.close()
    return num_rows


def _parquet_schema(pa: Any) -> Any:
    verdict = pa.struct(
        [
            ("reward", pa.float64()),
            ("status", pa.string()),
            ("extracted", pa.string()),
            ("reason", pa.string()),
            ("elapsed_s", pa.float64()),
        ]
    )
    strings = ("response_id", "prompt_id", "prompt", "finish_reason", "server", "sampler", "loans")
    counts = ("policy_version", "step", "stage", "index", "seed", "num_cached_tokens")
    steps = ("deposit_step", "evicted_step", "times_borrowed", "last_borrowed_step")
    return pa.schema(
        [
            *((name, pa.string()) for name in strings),
            ("token_ids", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            *((name, pa.int64()) for name in (*counts, *steps)),
            ("elapsed_s", pa.float64()),
            ("verdict", verdict),
        ]
    )
