"""A Megatron distributed checkpoint of the weights alone, written and read without a model: parameter by parameter, so
that a 32B policy passes through the memory of one process.

The format is `dist_checkpointing`'s own (`torch_dist`): layers are stacked under one name, rows of all tensor-parallel
ranks lie in one global tensor. It loads at any layout, and the weights of a training checkpoint are read alike.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from megatron_ar3po.actor.hf_mapping import Parameter, chunk_parameters
from megatron_ar3po.model_shape import ModelShape, padded_vocab_size

_LAYERS = "decoder.layers."
_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One parameter and where it lies in the checkpoint."""

    parameter: Parameter
    key: str
    layer: int | None  # its index among the stacked layers
    num_layers: int
    local_shape: tuple[int, ...]

    @property
    def global_shape(self) -> tuple[int, ...]:
        return self.local_shape if self.layer is None else (self.num_layers, *self.local_shape)

    @property
    def offset(self) -> tuple[int, ...]:
        zeros = (0,) * len(self.local_shape)
        return zeros if self.layer is None else (self.layer, *zeros)


def pieces_of(shape: ModelShape) -> list[Piece]:
    """Every parameter of the whole model, in the order of its layers."""
    # fused: the names that Megatron stores norms under, whatever computes them
    parameters = chunk_parameters(shape, stage=0, num_stages=1, fused_norms=True)
    return [_piece(p, shape) for p in parameters]


def _piece(parameter: Parameter, shape: ModelShape) -> Piece:
    key, layer = parameter.name, None
    if key.startswith(_LAYERS):
        number, _, rest = key.removeprefix(_LAYERS).partition(".")
        key, layer = _LAYERS + rest, int(number)
    rows, tail = sum(size[0] for size in parameter.hf_shapes), parameter.hf_shapes[0][1:]
    if parameter.cut == "vocab_parallel":
        rows = padded_vocab_size(shape.vocab_size, 1)
    return Piece(parameter, key, layer, shape.num_layers, (rows, *tail))


# --- writing


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """What is known of a finished file; kept beside it until the checkpoint is whole."""

    results: list[Any]  # DCP's, where each tensor lies
    digests: dict[str, str]  # of the HF tensors in it


class MegatronFolderWriter:
    """Writes parts in any order, each one file; `finish` makes them a checkpoint. A part that was written before an
    interruption is not written again."""

    def __init__(self, folder: Path, parts: Sequence[Sequence[Piece]], dtype: torch.dtype) -> None:
        self.folder, self._parts, self._dtype = folder, parts, dtype
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = FileSystemWriter(folder)
        self._writer.reset(folder)
        self._writer.set_up_storage_writer(is_coordinator=True)
        plans = [SavePlan([_write_item(p, dtype) for p in part]) for part in parts]
        self._plans = self._writer.prepare_global_plan(plans)

    def find_written(self, number: int) -> WrittenPart | None:
        record = self._record(number)
        if not record.is_file():
            return None
        return pickle.loads(record.read_bytes())  # our own file, inside our own unfinished folder

    def write(self, number: int, make: Callable[[Piece], tuple[Tensor, dict[str, str]]]) -> None:
        """`make` gives a parameter's tensor and the digests of what it was made from; one at a time."""
        planner = _LazyPlanner(self._parts[number], make)
        results = self._writer.write_data(self._plans[number], planner).wait()
        record = self._record(number)
        beside = record.with_suffix(".new")
        beside.write_bytes(pickle.dumps(WrittenPart(list(results), planner.digests)))
        beside.rename(record)

    def finish(self) -> dict[str, str]:
        """The digests of all HF tensors."""
        written = [self.find_written(number) for number in range(len(self._parts))]
        assert all(part is not None for part in written), "every part is written before finish"
        tensors: dict[str, Any] = {}
        for piece in (piece for part in self._parts for piece in part):
            stored = tensors.setdefault(
                piece.key,
                TensorStorageMetadata(
                    TensorProperties(dtype=self._dtype), torch.Size(piece.global_shape), []
                ),
            )
            stored.chunks.append(_chunk(piece))
        self._writer.finish(
            Metadata(state_dict_metadata=tensors),
            [part.results for part in written if part is not None],
        )
        torch.save({}, self.folder / "common.pt")
        (self.folder / "metadata.json").write_text(json.dumps(_FORMAT), "utf-8")
        return {n: d for part in written if part is not None for n, d in part.digests.items()}

    def forget_parts(self) -> None:
        """The notes on finished parts, which a checkpoint that is proven no longer needs."""
        for number in range(len(self._parts)):
            self._record(number).unlink()

    def _record(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.done"


class _LazyPlanner(SavePlanner):
    """Asks for each tensor when it is written, and not before."""

    def __init__(
        self, pieces: Sequence[Piece], make: Callable[[Piece], tuple[Tensor, dict[str, str]]]
    ) -> None:
        self._pieces = {(p.key, p.offset): p for p in pieces}
        self._make = make
        self.digests: dict[str, str] = {}

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        index = write_item.index
        assert index.offset is not None
        piece = self._pieces[index.fqn, tuple(index.offset)]
        tensor, digests = self._make(piece)
        self.digests |= digests
        return tensor.view(1, *piece.local_shape) if piece.layer is not None else tensor

    # The plan is ours; the writer asks for data alone.
    def set_up_planner(self, *_: Any, **__: Any) -> None: ...
    def create_local_plan(self) -> SavePlan:
        raise NotImplementedError

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        raise NotImplementedError

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        raise NotImplementedError


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    sizes = piece.local_shape if piece.layer is None else (1, *piece.local_shape)
    return ChunkStorageMetadata(offsets=torch.Size(piece.offset), sizes=torch.Size(sizes))


def _write_item(piece: Piece, dtype: torch.dtype) -> WriteItem:
    return WriteItem(
        index=MetadataIndex(piece.key, torch.Size(piece.offset)),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=_chunk(piece),
            properties=TensorProperties(dtype=dtype),
            size=torch.Size(piece.global_shape),
        ),
    )


# --- reading


def read_pieces(folder: Path, pieces: Sequence[Piece], dtype: torch.dtype) -> list[Tensor]:
    """Whole parameters, in the order of `pieces`, put together from whatever pieces the checkpoint was saved in;
    nothing else of it is read."""
    reader = FileSystemReader(folder)
    stored = reader.read_metadata()
    reader.set_up_storage_reader(stored, is_coordinator=True)
    targets: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    items: list[ReadItem] = []
    for piece in pieces:
        chunk, described = _chunk(piece), stored.state_dict_metadata[piece.key]
        assert isinstance(described, TensorStorageMetadata), piece.key
        targets[piece.key, piece.offset] = torch.empty(chunk.sizes, dtype=dtype)
        parts = create_read_items_for_chunk_list(piece.key, described, [chunk])
        if sum(math.prod(part.lengths) for part in parts) != math.prod(piece.local_shape):
            raise ValueError(
                f"{folder} holds only a part of {piece.parameter.name}; was it copied whole?"
            )
        items += parts
    reader.read_data(LoadPlan(items), _BoxPlanner(targets)).wait()
    return [targets[piece.key, piece.offset].view(piece.local_shape) for piece in pieces]


class _BoxPlanner(LoadPlanner):
    """Puts what is read into the tensors it belongs to, by key and offset."""

    def __init__(self, targets: dict[tuple[str, tuple[int, ...]], Tensor]) -> None:
        self._targets = targets

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        index = read_item.dest_index
        assert index.offset is not None
        whole = self._targets[index.fqn, tuple(index.offset)]
        return narrow_tensor_by_index(whole, read_item.dest_offsets, read_item.lengths)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None: ...
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None: ...

    # The plan is ours; the reader asks where to put data alone.
    def set_up_planner(self, *_: Any, **__: Any) -> None: ...
    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        raise NotImplementedError

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        raise NotImplementedError


def check_folder(folder: Path, pieces: Iterable[Piece]) -> torch.dtype:
    """The dtype of the weights. ValueError that names what is missing or of another shape."""
    if not (folder / ".metadata").is_file():
        inner = folder / "model"
        hint = f"; take {inner}" if (inner / ".metadata").is_file() else ""
        raise ValueError(f"{folder} is no Megatron distributed checkpoint: no .metadata{hint}.")
    stored: dict[str, Any] = FileSystemReader(folder).read_metadata().state_dict_metadata
    problems: list[str] = []
    for key, wanted in {p.key: p.global_shape for p in pieces}.items():
        if key not in stored:
            problems.append(f"missing: {key}")
        elif tuple(stored[key].size) != wanted:
            problems.append(f"{key} is {list(stored[key].size)}, config.json says {list(wanted)}")
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(
            f"{folder} does not hold the weights of this model: {'; '.join(problems[:8])}{more}."
        )
    return stored["embedding.word_embeddings.weight"].properties.dtype


# --- digests


def digest(tensor: Tensor) -> str:
    """Of dtype, shape and bytes."""
    head = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    found = hashlib.blake2b(head, digest_size=16)
    found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def checksum(digests: dict[str, str]) -> str:
    """One for the whole model, from its HF tensors by name: the same for every format and every cut into files."""
    text = "\n".join(f"{name} {value}" for name, value in sorted(digests.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
