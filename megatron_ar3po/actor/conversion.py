"""Hugging Face folder <-> Megatron distributed checkpoint, streamed, resumable, and proven at the end.

Both ways go through the same steps: check names and shapes, write part by part into OUT.partial, read every tensor back
from what was written, compare its digest with that of its source, rename. So OUT is whole and right, or not there. What
an interrupted run has finished is taken up by the next one with the same arguments.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_ar3po.actor.hf_import import HfTensors, check_tensors
from megatron_ar3po.actor.hf_mapping import join_shards, read_shard
from megatron_ar3po.actor.megatron_folder import (
    MegatronFolderWriter,
    Piece,
    check_folder,
    checksum,
    digest,
    pieces_of,
    read_pieces,
)
from megatron_ar3po.hf_folder import HfFolderWriter, all_but_weights
from megatron_ar3po.model_shape import ModelShape, read_policy_shape

Report = Callable[[str, int, int], None]  # (what is done, bytes so far, bytes in all)


def to_megatron(source: Path, target: Path, *, part_bytes: int, report: Report) -> str:
    """HF folder -> Megatron checkpoint of its dtype. Returns the checksum."""
    shape = read_policy_shape(str(source))
    tensors = HfTensors(source)
    try:
        check_tensors(shape, tensors)
        dtype = _require_one_dtype(source, shape, tensors)
        parts = list(_split_into_parts(pieces_of(shape), part_bytes, dtype))
        total = _bytes_of(parts, dtype)
        partial = _open_partial(target, source, f"{dtype} {part_bytes}")
        writer = MegatronFolderWriter(partial, parts, dtype)
        done = 0
        for number, part in enumerate(parts):
            if writer.find_written(number) is None:
                writer.write(number, lambda piece: _read_from_hf(piece, shape, tensors))
            done += _bytes_of([part], dtype)
            report("writing", done, total)
        digests = writer.finish()
    finally:
        tensors.close()
    _compare(digests, _read_back(partial, parts, shape, dtype, report, total), partial)
    writer.forget_parts()
    # What a run needs beside the weights: config and tokenizer.
    for path in all_but_weights(source):
        shutil.copy2(path, partial / path.name)
    _publish(partial, target)
    return checksum(digests)


def to_hf(
    source: Path,
    target: Path,
    like: Path,
    *,
    file_bytes: int,
    report: Report,
    notes: Callable[[str], Mapping[str, str]] = lambda checksum: {},
) -> str:
    """Megatron checkpoint, saved at any layout -> HF folder with the config and tokenizer of `like`. Returns the
    checksum. `notes`: small files to be written beside the weights, by name, once their checksum is known."""
    shape = read_policy_shape(str(like))
    pieces = pieces_of(shape)
    dtype = check_folder(source, pieces)
    parts = list(_split_into_parts(pieces, file_bytes, dtype))
    total = _bytes_of(parts, dtype)
    partial = _open_partial(target, source, f"{dtype} {file_bytes} {like}")
    writer = HfFolderWriter(source=like, target=target, keep_partial=True)
    digests: dict[str, str] = {}
    done = 0
    for part in parts:
        found = _read_from_megatron(source, part, shape, dtype)
        digests |= {name: digest(x) for name, x in found}
        if not writer.skip_written({name for name, _ in found}):
            writer.add(found)
        del found
        done += _bytes_of([part], dtype)
        report("writing", done, total)
    writer.write_index()
    _compare(digests, hf_digests(partial, shape, report), partial)
    for name, text in notes(checksum(digests)).items():
        (partial / name).write_text(text, "utf-8")
    _publish(partial, target)
    return checksum(digests)


def hf_digests(folder: Path, shape: ModelShape, report: Report) -> dict[str, str]:
    tensors = HfTensors(folder)
    try:
        check_tensors(shape, tensors)
        names = sorted({n for p in pieces_of(shape) for n in p.parameter.hf_names})
        found = {}
        for number, name in enumerate(tensors.in_file_order(names), start=1):
            found[name] = digest(tensors.read_whole(name))
            report("checking", number, len(names))
        return found
    finally:
        tensors.close()


def megatron_digests(folder: Path, shape: ModelShape, report: Report) -> dict[str, str]:
    pieces = pieces_of(shape)
    dtype = check_folder(folder, pieces)
    parts = list(_split_into_parts(pieces, 1 << 30, dtype))
    return _read_back(folder, parts, shape, dtype, report, _bytes_of(parts, dtype))


# --- parts


def _split_into_parts(
    pieces: Sequence[Piece], max_bytes: int, dtype: torch.dtype
) -> Iterator[list[Piece]]:
    """Whole parameters in order; one that is larger than a part has its own."""
    part: list[Piece] = []
    held = 0
    for piece in pieces:
        size = piece.parameter.num_elements * dtype.itemsize
        if part and held + size > max_bytes:
            yield part
            part, held = [], 0
        part.append(piece)
        held += size
    if part:
        yield part


def _bytes_of(parts: Sequence[Sequence[Piece]], dtype: torch.dtype) -> int:
    return sum(p.parameter.num_elements for part in parts for p in part) * dtype.itemsize


def _read_from_hf(
    piece: Piece, shape: ModelShape, tensors: HfTensors
) -> tuple[Tensor, dict[str, str]]:
    digests: dict[str, str] = {}

    def read_rows(name: str, first: int, last: int) -> Tensor:
        found = tensors.read_rows(name, first, last)
        digests[name] = digest(found)
        return found

    def read_columns(name: str, first: int, last: int) -> Tensor:
        found = tensors.read_columns(name, first, last)
        digests[name] = digest(found)
        return found

    return read_shard(piece.parameter, shape, 1, 0, read_rows, read_columns), digests


def _read_from_megatron(
    folder: Path, part: Sequence[Piece], shape: ModelShape, dtype: torch.dtype
) -> list[tuple[str, Tensor]]:
    found = read_pieces(folder, part, dtype)
    return [
        pair
        for piece, tensor in zip(part, found, strict=True)
        for pair in join_shards(piece.parameter, shape, [tensor])
    ]


def _read_back(
    folder: Path,
    parts: Sequence[Sequence[Piece]],
    shape: ModelShape,
    dtype: torch.dtype,
    report: Report,
    total: int,
) -> dict[str, str]:
    found: dict[str, str] = {}
    done = 0
    for part in parts:
        found |= {name: digest(x) for name, x in _read_from_megatron(folder, part, shape, dtype)}
        done += _bytes_of([part], dtype)
        report("checking", done, total)
    return found


def _require_one_dtype(source: Path, shape: ModelShape, tensors: HfTensors) -> torch.dtype:
    names = {n for p in pieces_of(shape) for n in p.parameter.hf_names}
    found = {tensors.dtype_of(name): name for name in sorted(names)}
    if len(found) > 1:
        shown = ", ".join(f"{dtype} ({name}, ...)" for dtype, name in found.items())
        raise ValueError(
            f"{source} mixes dtypes: {shown}; a Megatron checkpoint of the weights has one. Re-save it in one dtype."
        )
    return next(iter(found))


# --- whole or not at all


def _open_partial(target: Path, source: Path, how: str) -> Path:
    """OUT.partial, empty or left by an interrupted conversion of the same source."""
    if target.exists():
        raise ValueError(f"{target} is there already; name another folder, or remove it.")
    partial = target.with_name(target.name + ".partial")
    files = sorted(p for p in source.iterdir() if p.is_file())
    made_from = json.dumps(
        [
            str(source.resolve()),
            how,
            [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files],
        ]
    )
    label = partial / "made_from.json"
    if partial.exists() and (not label.is_file() or label.read_text("utf-8") != made_from):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    label.write_text(made_from, encoding="utf-8")
    return partial


def _compare(source: dict[str, str], written: dict[str, str], folder: Path) -> None:
    wrong = sorted(n for n in source.keys() | written.keys() if source.get(n) != written.get(n))
    if wrong:
        raise ValueError(
            f"{folder} does not hold what was read: {len(wrong)} tensors differ ({', '.join(wrong[:8])}). The disk or "
            "the memory of this machine is not to be trusted; remove the folder and convert again elsewhere."
        )


def _publish(partial: Path, target: Path) -> None:
    (partial / "made_from.json").unlink()
    partial.rename(target)
