"""The distributed optimizer's state in a checkpoint: each rank saves and loads what it owns, and nothing is gathered.

A data-parallel rank owns a range of a flat buffer: most of its parameters whole, the first and the last cut anywhere.
Seen from the parameter, whose tensors the checkpoint holds, such a range is a few boxes: of [rows, columns] the rest of
a row, whole rows, the beginning of a row. Each box is written as the part of the whole tensor that it is, so the
checkpoint loads at any layout, and what lies in the files is what Megatron's own `fully_reshardable` would have written
(which gathers everything on every rank to get there), cut at other places: either reads what the other wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

_KEYS = ("param", "exp_avg", "exp_avg_sq")
_FORMAT = "fully_reshardable"  # Megatron's name for these tensors, however they are cut

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets, sizes


def state_to_save(one: DistributedOptimizer, sharded_model: Any) -> dict[str, Any]:
    """A part of Megatron's sharded state. The tensors are `one`'s own, not copies. No collective."""
    pieces = {p.name: replace(p.sharded, data=p.find_in(one)) for p in _pieces(one, sharded_model)}
    return {**one.state_dict(), "param_state": pieces, "param_state_sharding_type": _FORMAT}


def state_to_load(one: DistributedOptimizer, sharded_model: Any) -> dict[str, Any]:
    """What `put` wants of a checkpoint: this rank's pieces, in host memory of their own."""
    return {"param_state": {piece.name: piece.sharded for piece in _pieces(one, sharded_model)}}


@torch.no_grad()
def put(one: DistributedOptimizer, sharded_model: Any, part: dict[str, Any]) -> None:
    """What was loaded for `state_to_load` becomes the state of `one`."""
    loaded: Mapping[str, Tensor] = part.pop("param_state")
    del part["param_state_sharding_type"]
    one.load_state_dict(part)
    for state in one.optimizer.state.values():
        if "step" in state:  # Megatron gives all parameters one tensor, which each counts up
            state["step"] = state["step"].clone()
    for piece in _pieces(one, sharded_model):
        piece.find_in(one).copy_(loaded[piece.name])


@dataclass(frozen=True, slots=True)
class _Piece:
    """One box of one tensor of a parameter's state."""

    parameter: Tensor  # the model's
    key: str
    start: int  # of its elements among those that this rank owns of the parameter
    sharded: ShardedTensor  # which box of which tensor of the checkpoint; no data

    @property
    def name(self) -> str:
        return f"{self.sharded.key}/{'.'.join(map(str, self.sharded.global_offset))}"

    def find_in(self, one: DistributedOptimizer) -> Tensor:
        """The elements themselves."""
        owned = one._get_main_param_and_optimizer_states(self.parameter)[self.key].detach()
        size = self.sharded.local_shape
        return owned.view(-1)[self.start : self.start + math.prod(size)].view(size)


def _pieces(one: DistributedOptimizer, sharded_model: Any) -> Iterator[_Piece]:
    """Of everything that this rank owns, in the same order each time."""
    by_parameter = {
        id(found.data): found
        for found in nested_values(sharded_model)
        if isinstance(found, ShardedTensor | ShardedTensorFactory)
    }
    for of_buffer in one.gbuf_ranges:
        for of_bucket in (bucket for buckets in of_buffer.values() for bucket in buckets):
            for parameter, ranges in of_bucket["param_map"].items():
                owned, whole = ranges["param"], by_parameter[id(parameter)]
                for start, box in _boxes_in_checkpoint(whole, parameter, owned.start, owned.end):
                    for key in _KEYS:
                        sharded = replace(box, key=f"optimizer.state.{key}.{box.key}")
                        yield _Piece(parameter, key, start - owned.start, sharded)


def _boxes_in_checkpoint(
    whole: ShardedTensor | ShardedTensorFactory, parameter: Tensor, first: int, end: int
) -> Iterator[tuple[int, ShardedTensor]]:
    """Elements `first` to `end` of a parameter of this rank, box by box: (its first element, the box under the key of
    the weight)."""
    flat = parameter.detach()
    # Gate and up are one parameter of the model and two parts of a tensor in the checkpoint.
    parts: list[Any] = [whole]  # ShardedTensors, with data
    if isinstance(whole, ShardedTensorFactory):
        parts = cast(list[Any], whole.build_fn(whole.key, flat, whole.replica_id, None))
    for part in parts:
        begin = int(part.data.storage_offset() - flat.storage_offset())
        shape, num_stacked = part.local_shape, part.prepend_axis_num
        low, high = max(first - begin, 0), min(end - begin, math.prod(shape))
        start = begin + low
        stacked, own = part.global_offset[:num_stacked], part.global_offset[num_stacked:]
        for offset, size in boxes_of_range(shape, low, high):
            box = ShardedTensor(
                key=part.key,
                data=None,
                dtype=torch.float32,
                local_shape=(1,) * num_stacked + size,
                global_shape=part.global_shape,
                global_offset=stacked + tuple(map(sum, zip(own, offset, strict=True))),
                axis_fragmentations=None,  # cut anywhere, not along a grid
                replica_id=(
                    *part.replica_id[:2],
                    0,
                ),  # of all data-parallel ranks, this one's alone
                allow_shape_mismatch=part.allow_shape_mismatch,
            )
            yield start, box
            start += math.prod(size)


def boxes_of_range(shape: tuple[int, ...], first: int, end: int) -> Iterator[Box]:
    """Elements `first` to `end` of a tensor of this shape, counted along its rows, as boxes in their order; each lies
    in one stretch.

    >>> list(boxes_of_range((4, 10), 7, 33))
    [((0, 7), (1, 3)), ((1, 0), (2, 10)), ((3, 0), (1, 3))]
    """
    if first >= end:
        return
    row = math.prod(shape[1:])
    whole_from, whole_to = -(-first // row), end // row
    if whole_from > whole_to:  # within one row
        yield from _boxes_of_row(shape, whole_to, first, end)
        return
    yield from _boxes_of_row(shape, whole_from - 1, first, whole_from * row)
    if whole_to > whole_from:
        zeros = (0,) * (len(shape) - 1)
        yield (whole_from, *zeros), (whole_to - whole_from, *shape[1:])
    yield from _boxes_of_row(shape, whole_to, whole_to * row, end)


def _boxes_of_row(shape: tuple[int, ...], index: int, first: int, end: int) -> Iterator[Box]:
    before = index * math.prod(shape[1:])
    for offset, size in boxes_of_range(shape[1:], first - before, end - before):
        yield (index, *offset), (1, *size)
