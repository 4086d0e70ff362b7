"""DIR/NAME.jsonl, a data set in one form, and beside it DIR/NAME.provenance.json: where it came from, its rows and
checksum, and what was left out. The same input gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.data.prompt_rows import list_some
from megatron_ar3po.data.row_files import read_rows
from megatron_ar3po.interfaces import GradingRules
from megatron_ar3po.preparation.catalogue import DataSet
from megatron_ar3po.preparation.fetching import FetchedFile
from megatron_ar3po.preparation.normalised import Normalised, normalise

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Prepared:
    path: Path
    found: Normalised
    sha256: str  # of the file at `path`

    def describe(self) -> str:
        """One line, which docs/data.md shows."""
        name, num_rows = self.path.stem, len(self.found.rows)
        left_out = ", ".join(
            f"{count} {reason}" for reason, count in sorted(self.found.left_out.items())
        )
        return f"{name:<14}{num_rows:>6} rows  sha256 {self.sha256}" + (
            f"  left out: {left_out}" if left_out else ""
        )


def prepare(
    data_set: DataSet,
    files: Sequence[FetchedFile],
    out: Path,
    grading: GradingRules,
    *,
    skips_broken: bool = False,
) -> Prepared:
    """Raises ValueError, and writes nothing, for files that cannot be read, for broken rows unless it `skips_broken`,
    and where nothing is left."""
    broken: list[str] = []
    found = normalise(data_set, _read_all(files, broken), grading)
    found.broken[:0] = broken
    found.num_read += len(broken)
    if found.broken and not skips_broken:
        raise ValueError(
            f"{data_set.name}: {len(found.broken)} broken rows:\n{list_some(found.broken)}\nMend them, or leave them "
            "out by --skip-broken."
        )
    if not found.rows:
        named = ", ".join(str(file.path) for file in files)
        raise ValueError(
            f"{data_set.name}: no row of {named} is left ({found.num_read} were read"
            + "".join(f", {count} {reason}" for reason, count in found.left_out.items())
            + f"{list_some(['', *found.broken]) if found.broken else ''}); give a file with problems and answers."
        )
    if found.broken:
        found.left_out["broken"] += len(found.broken)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{data_set.name}.jsonl"
    _write_whole(path, text)
    prepared = Prepared(path, found, hash_file(path))
    provenance = json.dumps(_provenance(data_set, files, prepared), indent=1, ensure_ascii=False)
    _write_whole(path.with_name(f"{data_set.name}.provenance.json"), provenance + "\n")
    return prepared


def hash_file(path: Path) -> str:
    """As `sha256sum` prints it."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _read_all(
    files: Sequence[FetchedFile], broken: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """With the origin of each row: the file's name and the line, without this machine's folder."""
    for file in files:

        def note(problem: str, file: FetchedFile = file) -> None:
            broken.append(problem.replace(str(file.path), file.name, 1))

        for where, row in read_rows(file.path, note):
            yield f"{file.name}:{where.rpartition(':')[2]}", row


def _provenance(
    data_set: DataSet, files: Sequence[FetchedFile], prepared: Prepared
) -> dict[str, Any]:
    found = prepared.found
    return {
        "name": data_set.name,
        "about": data_set.about,
        "rows": len(found.rows),
        "sha256": prepared.sha256,
        "from": [{"file": file.name, "sha256": hash_file(file.path)} for file in files],
        "rows_read": found.num_read,
        "left_out": dict(sorted(found.left_out.items())),
        "defects": found.defects,
        "broken": found.broken,
    }


def _write_whole(path: Path, text: str) -> None:
    """No half file is left where the disk fills up."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
