"""Sums and means over the sequences of a micro-batch. Sequences lie whole in one micro-batch, so
these are exact and need no communication. Each result is spread back over the tokens: [T] -> [T],
every token of a sequence alike. On a GPU `index_add` adds in no fixed order, so two runs may differ
in the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_ar3po.types import MicroBatch


def sequence_sum(values: Tensor, micro_batch: MicroBatch) -> Tensor:
    """[T] -> [T]: sum over the response tokens of the token's own sequence."""
    ids = micro_batch.sequence_ids
    sums = values.new_zeros(micro_batch.num_sequences).index_add(
        0, ids, values * micro_batch.loss_mask
    )
    return sums[ids]


def sequence_mean(values: Tensor, micro_batch: MicroBatch) -> Tensor:
    """[T] -> [T]: mean over the response tokens of the token's own sequence; 0 where it has
    none."""
    num_tokens = sequence_sum(torch.ones_like(values), micro_batch)
    return sequence_sum(values, micro_batch) / num_tokens.clamp(min=1)
