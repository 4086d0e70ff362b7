"""This replica's parameters -> whole Hugging Face tensors on its leader or on all of its ranks, bucket by bucket.

Every rank of the replica knows the plan of every stage, so all take part in the same collectives in the same order.
For the leader, the stage that owns a bucket gathers it over TP to its first rank, which sends it to the leader when
that is another; for all, it gathers it to each of its ranks, and each hands it on over its own pipeline.
Beside the model there is never more than the gathered bucket and the tensors made from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ar3po.actor import groups
from megatron_ar3po.actor.hf_mapping import (
    Parameter,
    chunk_parameters,
    join_shards,
    shard_shape,
)
from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.distributed.layout import ParallelLayout

Bucket = Sequence[tuple[str, Tensor]]


def hf_buckets(
    model: PolicyModel, layout: ParallelLayout, max_bytes: int, *, on_every_rank: bool
) -> Iterator[Bucket]:
    """Collective over the replica. The leader, or every rank, gets whole tensors (views of the model where TP and PP
    are 1), the others an empty sequence for each bucket."""
    size = model.config.params_dtype.itemsize
    for stage in range(layout.pipeline_parallel_size):
        for bucket in _split_into_buckets(_stage_plan(model, layout, stage), max_bytes // size):
            if on_every_rank:  # context-parallel ranks hold the same, and each its own groups
                yield _collect_everywhere(model, layout, stage, bucket)
            else:  # the first of them gather
                yield _collect(model, layout, stage, bucket) if layout.cp_rank == 0 else ()


def _stage_plan(model: PolicyModel, layout: ParallelLayout, stage: int) -> list[Parameter]:
    plan = chunk_parameters(
        model.shape,
        stage=stage,
        num_stages=layout.pipeline_parallel_size,
        fused_norms=model.kernels.has_transformer_engine,
    )
    return [p for p in plan if not p.is_copy]


def _split_into_buckets(plan: list[Parameter], max_elements: int) -> Iterator[list[Parameter]]:
    """Whole parameters in order; one that is larger than a bucket has its own."""
    bucket: list[Parameter] = []
    held = 0
    for parameter in plan:
        if bucket and held + parameter.num_elements > max_elements:
            yield bucket
            bucket, held = [], 0
        bucket.append(parameter)
        held += parameter.num_elements
    if bucket:
        yield bucket


@torch.no_grad()
def _collect(
    model: PolicyModel, layout: ParallelLayout, stage: int, bucket: list[Parameter]
) -> Bucket:
    if stage != layout.pp_rank and not layout.is_leader:
        return ()
    if stage == layout.pp_rank:
        if layout.tensor_parallel_size == 1 and layout.is_leader:
            return _views(model, bucket)
        gathered = _gather_over_tp(layout, _flat_shards(model, bucket))
    else:
        gathered = _room_for(model, layout, bucket)
    if stage != 0 and layout.tp_rank == 0:
        _move_to_leader(layout, stage, gathered)
    if not layout.is_leader or gathered is None:
        return ()
    return _unpack(model, bucket, gathered)


@torch.no_grad()
def _collect_everywhere(
    model: PolicyModel, layout: ParallelLayout, stage: int, bucket: list[Parameter]
) -> Bucket:
    tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
    if tp == pp == 1:
        return _views(model, bucket)
    gathered = _room_for(model, layout, bucket)
    if stage == layout.pp_rank:
        flat = _flat_shards(model, bucket)
        dist.all_gather(list(gathered.unbind(0)), flat, group=groups.tensor_parallel())
    if pp > 1:
        group = groups.pipeline_parallel()
        dist.broadcast(gathered, src=dist.get_global_rank(group, stage), group=group)
    return _unpack(model, bucket, gathered)


def _views(model: PolicyModel, bucket: list[Parameter]) -> Bucket:
    named = dict(model.named_parameters())
    return [pair for p in bucket for pair in join_shards(p, model.shape, [named[p.name].data])]


def _flat_shards(model: PolicyModel, bucket: list[Parameter]) -> Tensor:
    """[elements of a shard] of this rank's stage."""
    named = dict(model.named_parameters())
    return torch.cat([named[p.name].data.reshape(-1) for p in bucket])


def _room_for(model: PolicyModel, layout: ParallelLayout, bucket: list[Parameter]) -> Tensor:
    """[tp, elements of a shard]"""
    tp = layout.tensor_parallel_size
    length = sum(math.prod(shard_shape(p, model.shape, tp)) for p in bucket)
    return next(model.parameters()).new_empty(tp, length)


def _gather_over_tp(layout: ParallelLayout, flat: Tensor) -> Tensor | None:
    """[tp, elements of a shard] on the stage's first rank, None on the others."""
    tp = layout.tensor_parallel_size
    if tp == 1:
        return flat.unsqueeze(0)
    group = groups.tensor_parallel()
    whole = flat.new_empty(tp, flat.numel()) if layout.tp_rank == 0 else None
    parts = None if whole is None else list(whole.unbind(0))
    dist.gather(flat, parts, dst=dist.get_global_rank(group, 0), group=group)
    return whole


def _move_to_leader(layout: ParallelLayout, stage: int, gathered: Tensor | None) -> None:
    """Between the stage's first rank and the leader, which are both in one pipeline group."""
    assert gathered is not None
    group = groups.pipeline_parallel()
    if layout.is_leader:
        dist.recv(gathered, src=dist.get_global_rank(group, stage), group=group)
    else:
        dist.send(gathered, dst=dist.get_global_rank(group, 0), group=group)


def _unpack(model: PolicyModel, bucket: list[Parameter], gathered: Tensor) -> Bucket:
    tensors: list[tuple[str, Tensor]] = []
    start = 0
    for parameter in bucket:
        size = shard_shape(parameter, model.shape, len(gathered))
        part = gathered[:, start : start + math.prod(size)]
        tensors += join_shards(parameter, model.shape, [x.view(size) for x in part.unbind(0)])
        start += math.prod(size)
    return tensors
