"""Context parallelism: which tokens of a packed micro-batch a rank computes. Plain torch.

As Transformer Engine wants it for packed sequences: every sequence is padded to a multiple of 2 * CP and cut into so
many equal chunks; rank r takes chunk r and chunk 2 * CP - 1 - r of each, an early one and a late one, so that causal
attention costs every rank the same. Padding weighs nothing and, behind the end, is seen by no real token.

Example, CP = 2, one sequence of 6 tokens, padded to 8, chunks of 2:

    tokens   a b c d e f . .      rank 0: a b . .      rank 1: c d e f

Every token has its target, weight and advantage at its own index before the cut, so a slice needs no neighbour, and the
sum of the losses of all ranks is the loss of the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megatron_ar3po.types import MicroBatch


@dataclass(frozen=True, slots=True)
class ContextSlice:
    """`micro_batch` holds this rank's tokens; its `cu_seqlens` are those of the padded whole, which is what
    Transformer Engine is told."""

    micro_batch: MicroBatch
    local_indices: Tensor  # [T_padded / CP] int64, in the padded whole, of this rank's tokens
    token_indices: (
        Tensor  # [T] int64, in the padded whole, of the tokens of the micro-batch as it was
    )

    def to(self, device: torch.device) -> ContextSlice:
        return replace(
            self,
            local_indices=self.local_indices.to(device),
            token_indices=self.token_indices.to(device),
        )

    def scatter(self, values: Tensor) -> Tensor:
        """[T] with `values` [T_padded / CP] at their tokens' indices and 0 elsewhere: summed over the ranks of the
        context it is the whole."""
        length = int(self.micro_batch.cu_seqlens[-1])
        return values.new_zeros(length).index_copy(0, self.local_indices, values)[
            self.token_indices
        ]


def context_slice(
    micro_batch: MicroBatch, *, size: int, rank: int, tensor_parallel: int = 1
) -> ContextSlice:
    """`tensor_parallel`: with sequence parallelism each slice is a multiple of it, by one more padding sequence."""
    lengths = micro_batch.cu_seqlens.diff().tolist()
    if size == 1 and not micro_batch.num_tokens % tensor_parallel:
        everything = torch.arange(micro_batch.num_tokens, device=micro_batch.token_ids.device)
        return ContextSlice(micro_batch, everything, everything)
    padded = lengths if size == 1 else [-(-n // (2 * size)) * 2 * size for n in lengths]
    multiple = tensor_parallel if size == 1 else math.lcm(2 * size, size * tensor_parallel)
    missing = -sum(padded) % multiple
    bounds = torch.tensor([0, *padded, *([missing] if missing else [])]).cumsum(0)
    starts = bounds[:-1].tolist()
    device = micro_batch.token_ids.device
    token_indices = torch.cat(
        [torch.arange(n) + start for n, start in zip(lengths, starts, strict=False)]
    ).to(device)
    total = int(bounds[-1])
    chunks = [
        torch.arange(length // (2 * size)) + start + number * (length // (2 * size))
        for start, length in zip(starts, bounds.diff().tolist(), strict=True)
        for number in (rank, 2 * size - 1 - rank)
    ]
    local_indices = (torch.cat(chunks) if size > 1 else torch.arange(total)).to(device)

    def cut(values: Tensor) -> Tensor:
        return values.new_zeros(total).index_copy(0, token_indices, values)[local_indices]

    per_token = {
        name: cut(value)
        for name in micro_batch.__dataclass_fields__
        if name != "cu_seqlens" and isinstance(value := getattr(micro_batch, name), Tensor)
    }
    counts = bounds.diff()
    numbers = torch.repeat_interleave(torch.arange(len(counts)), counts).to(device)
    positions = torch.cat([torch.arange(n) for n in counts.tolist()]).to(device)
    per_token |= {"sequence_ids": numbers[local_indices], "position_ids": positions[local_indices]}
    mine = replace(micro_batch, cu_seqlens=bounds.int(), **per_token)
    return ContextSlice(mine, local_indices, token_indices)
