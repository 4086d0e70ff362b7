"""How many parameters each rank of a layout holds, without building anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ar3po.actor.hf_mapping import Parameter, chunk_parameters, shard_shape
from megatron_ar3po.model_shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSize:
    """One pipeline stage. Its tensor-parallel ranks hold the same numbers, and so does every replica."""

    stage: int
    num_layers: int
    held: int  # parameters of each rank, padding and copies included
    padding: int  # zero rows behind the vocabulary, over all tensor-parallel ranks
    copies: (
        int  # over all tensor-parallel ranks: norms beyond the first rank's, a tied output layer
    )
    distinct: int  # parameters of the published model that have their home here


def stage_sizes(shape: ModelShape, *, tp: int, pp: int, chunks: int = 1) -> list[StageSize]:
    return [_stage_size(shape, tp, pp, chunks, stage) for stage in range(pp)]


def _stage_size(shape: ModelShape, tp: int, pp: int, chunks: int, stage: int) -> StageSize:
    plan = [
        parameter
        for chunk in range(chunks)
        for parameter in chunk_parameters(
            shape,
            stage=stage,
            num_stages=pp,
            chunk=chunk,
            num_chunks=chunks,
            fused_norms=False,
        )
    ]
    held = sum(math.prod(shard_shape(p, shape, tp)) for p in plan)
    distinct = sum(p.num_elements for p in plan if not p.is_copy)
    padding = sum(_num_padding(p, shape, tp) for p in plan)
    return StageSize(
        stage=stage,
        num_layers=shape.num_layers // pp,
        held=held,
        padding=padding,
        copies=held * tp - distinct - padding,
        distinct=distinct,
    )


def _num_padding(parameter: Parameter, shape: ModelShape, tp: int) -> int:
    if parameter.cut != "vocab_parallel":
        return 0
    return math.prod(shard_shape(parameter, shape, tp)) * tp - parameter.num_elements


def as_table(sizes: Sequence[StageSize], tp: int, bytes_per_parameter: int) -> str:
    """Markdown: one line per stage, and the whole model."""
    lines = [
        "| stage | layers | parameters of each rank | its bytes | padding of the stage | copies in the stage |",
        "|---|---|---|---|---|---|",
        *(
            f"| {s.stage} | {s.num_layers} | {s.held:,} | {s.held * bytes_per_parameter:,} | {s.padding:,} | "
            f"{s.copies:,} |"
            for s in sizes
        ),
    ]
    distinct, padding = sum(s.distinct for s in sizes), sum(s.padding for s in sizes)
    copies = sum(s.copies for s in sizes)
    held = sum(s.held for s in sizes) * tp
    assert held == distinct + padding + copies, (held, distinct, padding, copies)
    return "\n".join(
        [
            *lines,
            "",
            f"{distinct:,} distinct parameters; a replica of {tp * len(sizes)} ranks holds {held:,}: with "
            f"{padding:,} of padding and {copies:,} of copies.",
        ]
    )
