"""Causal attention over packed sequences with torch's own kernel, where Transformer Engine is not installed.

A micro-batch packs N sequences end to end into T tokens. `PackedSegments` sorts them by length into a few groups, pads
each group to its longest member and runs one causal SDPA call per group. Right padding under a causal mask is exact:
no real query ever sees a padded key, and nothing reads the output of a padded query. The look-up tables are made once
per micro-batch and serve all layers.

Example, lengths (2, 3, 2), one group padded to 3:

    gather   [[2, 3, 4], [0, 1, 1], [5, 6, 6]]   longest first; a short row repeats its last token
    restore  [3, 4, 0, 1, 2, 6, 7]               index of token t in the flattened padded output
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

# A group may be padded by this factor: below it one more kernel call costs more than the padding.
_MAX_PADDING = 1.25
_SHORT = 32  # sequences up to this length share a group whatever the padding
_ROUND_ROPE_TO = 64  # rotary tables are cached by length: fewer distinct lengths, fewer tables


@dataclass
class PackedSegments(PackedSeqParams):
    """Where each sequence of a micro-batch lies. `qkv_format` is none that Megatron knows, so its attention keeps the
    shape [T, 1, heads, dim] and applies the rotary embedding row by row (see PolicyModel)."""

    gather: Sequence[Tensor] = ()  # per group [n, L] int64, rows of the padded group
    restore: Tensor | None = None  # [T] int64, back from the concatenated groups


def packed_segments(cu_seqlens: Tensor, device: torch.device | str) -> PackedSegments:
    """`cu_seqlens` [N + 1] on the host: starts of the sequences, then T."""
    bounds = cu_seqlens.cpu().numpy().astype(np.int64)
    starts, lengths = bounds[:-1], np.diff(bounds)
    gather, restore, offset = [], np.empty(bounds[-1], dtype=np.int64), 0
    for rows in _groups_by_length(lengths):
        longest = int(lengths[rows[0]])
        columns = np.arange(longest)
        indices = starts[rows, None] + np.minimum(columns, lengths[rows, None] - 1)
        is_real = columns < lengths[rows, None]
        restore[indices[is_real]] = offset + np.flatnonzero(is_real)
        gather.append(torch.from_numpy(indices).to(device, non_blocking=True))
        offset += indices.size
    longest = -int(-lengths.max() // _ROUND_ROPE_TO) * _ROUND_ROPE_TO
    return PackedSegments(
        qkv_format="segments",
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        gather=gather,
        restore=torch.from_numpy(restore).to(device, non_blocking=True),
    )


def _groups_by_length(lengths: np.ndarray) -> list[np.ndarray]:
    """Sequence numbers, longest first, cut where padding would exceed the bound."""
    order = np.argsort(-lengths, kind="stable")
    cuts, first, real = [0], 0, 0
    for i, row in enumerate(order):
        longest = lengths[order[first]]
        padded = (i - first + 1) * longest
        if longest > _SHORT and padded > _MAX_PADDING * (real + lengths[row]):
            cuts.append(i)
            first, real = i, 0
        real += lengths[row]
    return [order[a:b] for a, b in pairwise([*cuts, len(order)])]


class SegmentAttention(torch.nn.Module):
    """Megatron's `core_attention` on torch SDPA. No parameters."""

    def __init__(self, *, softmax_scale: float | None = None, **_: object) -> None:
        super().__init__()
        self.scale = softmax_scale

    def forward(
        self,
        query: Tensor,  # [T, 1, heads, dim]
        key: Tensor,  # [T, 1, kv heads, dim]
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        packed_seq_params: PackedSegments,
        **_: object,
    ) -> Tensor:  # [T, 1, heads * dim]
        query, key, value = query[:, 0], key[:, 0], value[:, 0]
        outputs = []
        for rows in packed_seq_params.gather:
            n, length = rows.shape
            q, k, v = (
                x.index_select(0, rows.reshape(-1)).view(n, length, *x.shape[1:]).transpose(1, 2)
                for x in (query, key, value)
            )
            out = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.scale, enable_gqa=query.size(1) != key.size(1)
            )
            outputs.append(out.transpose(1, 2).reshape(n * length, -1))
        assert packed_seq_params.restore is not None
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole.index_select(0, packed_seq_params.restore).unsqueeze(1)

    def sharded_state_dict(self, *_: object, **__: object) -> dict[str, object]:
        """Megatron asks every submodule for its part of a checkpoint; this one has none."""
        return {}
