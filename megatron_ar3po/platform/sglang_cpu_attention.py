"""SGLang's `torch_native` attention with one call for the whole batch instead of one per sequence.

SGLang 0.5.23 loops over the sequences in Python, layer by layer, which with a small model and many short sequences is a
good part of a server's work. Here the sequences of a batch are padded to the longest and masked; what is out of the
ordinary (encoder-decoder models, sliding windows, very long batches) is left to SGLang's own loop.

The padded length decides the order of summation, so a sequence's last bits depend on its neighbours, on what of it was
cached and on whether its tokens came one by one. `BatchInvariantAttention` computes each token in a shape that depends
on its position alone.

Imported in the server's processes only, after the shims.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.layers.attention import attention_registry
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Padded keys and values are copies: a batch that would need more than this many elements goes through the loop.
_MAX_PADDED_ELEMENTS = 64 * 1024 * 1024

BLOCK = 32


class BatchedTorchNativeAttention(TorchNativeAttnBackend):
    """Legend: N sequences, Q query tokens of the longest, L tokens of the longest, H heads, D head size."""

    def _run_sdpa_forward_decode(
        self,
        query: Tensor,  # [N, H, D], one new token per sequence
        output: Tensor,  # [N, H, D]
        k_cache: Tensor,  # [slots, H of keys, D]
        v_cache: Tensor,
        req_to_token: Tensor,  # [requests, positions] -> slot
        req_pool_indices: Tensor,  # [N]
        seq_lens: Tensor,  # [N]
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        longest = int(seq_lens.max())
        if not _is_plain(len(seq_lens), longest, k_cache, encoder_lens, options):
            return super()._run_sdpa_forward_decode(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens,
                encoder_lens, **options,
            )  # fmt: skip
        visible = torch.arange(longest) < seq_lens[:, None]  # [N, L]
        slots = req_to_token[req_pool_indices, :longest].masked_fill(~visible, 0)
        attended = scaled_dot_product_attention(
            query[:, :, None],
            _gather(k_cache, slots).transpose(1, 2).to(query.dtype),
            _gather(v_cache, slots).transpose(1, 2).to(query.dtype),
            attn_mask=visible[:, None, None],
            enable_gqa=options.get("enable_gqa", False),
            scale=options.get("scaling"),
        )  # [N, H, 1, D]
        output.copy_(attended[:, :, 0])
        return output

    def _run_sdpa_forward_extend(
        self,
        query: Tensor,  # [tokens, H, D], the new tokens of all sequences end to end
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,  # [N], cached prefix and new tokens
        extend_prefix_lens: Tensor,  # [N]
        extend_seq_lens: Tensor,  # [N], new tokens
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        longest = int(seq_lens.max())
        is_causal = options.get("causal", False)
        if not is_causal or not _is_plain(len(seq_lens), longest, k_cache, encoder_lens, options):
            return super()._run_sdpa_forward_extend(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens,
                extend_prefix_lens, extend_seq_lens, encoder_lens, **options,
            )  # fmt: skip
        new = torch.arange(int(extend_seq_lens.max()))  # [Q]
        is_token = new < extend_seq_lens[:, None]  # [N, Q]
        keys = torch.arange(longest)  # [L]
        slots = req_to_token[req_pool_indices, :longest].masked_fill(keys >= seq_lens[:, None], 0)
        position = extend_prefix_lens[:, None] + new  # [N, Q]
        padded = query.new_zeros(len(seq_lens), len(new), *query.shape[1:])
        padded[is_token] = query
        attended = scaled_dot_product_attention(
            padded.transpose(1, 2),
            _gather(k_cache, slots).transpose(1, 2).to(query.dtype),
            _gather(v_cache, slots).transpose(1, 2).to(query.dtype),
            attn_mask=(keys <= position[:, :, None])[:, None],
            enable_gqa=options.get("enable_gqa", False),
            scale=options.get("scaling"),
        )  # [N, H, Q, D]
        output.copy_(attended.transpose(1, 2)[is_token])
        return output


class BatchInvariantAttention(BatchedTorchNativeAttention):
    """Queries come in blocks of `BLOCK` positions, 0 to 31, 32 to 63, ...; a block's keys end where it ends. A token is
    computed at its place in its block, whether or not the others of the block are new: one generated token costs as
    much as 32. There is one call for the blocks with one number, of whatever sequences."""

    def _run_sdpa_forward_decode(
        self,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        ones = torch.ones_like(seq_lens)
        return self._run_sdpa_forward_extend(
            query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens,
            seq_lens - 1, ones, encoder_lens, **{**options, "causal": True},
        )  # fmt: skip

    def _run_sdpa_forward_extend(
        self,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        extend_prefix_lens: Tensor,
        extend_seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        _check_plain(encoder_lens, options)
        # Where a sequence's position 0 would lie among the new tokens.
        starts = extend_seq_lens.cumsum(0) - extend_seq_lens - extend_prefix_lens  # [N]
        for block in range(int(seq_lens.max() + BLOCK - 1) // BLOCK):
            begin, end = block * BLOCK, (block + 1) * BLOCK
            rows = ((extend_prefix_lens < end) & (seq_lens > begin)).nonzero()[:, 0]
            if not len(rows):
                continue
            position = torch.arange(begin, end)  # [Q]
            is_new = (position >= extend_prefix_lens[rows, None]) & (
                position < seq_lens[rows, None]
            )  # [N, Q]
            new = (starts[rows, None] + position)[is_new]  # their places in `query`
            padded = query.new_zeros(len(rows), BLOCK, *query.shape[1:])
            padded[is_new] = query[new]
            slots = req_to_token[req_pool_indices[rows], :end]  # [N, L]
            keys = torch.arange(slots.shape[1])
            slots = slots.masked_fill(keys >= seq_lens[rows, None], 0)
            attended = scaled_dot_product_attention(
                padded.transpose(1, 2),
                _gather(k_cache, slots).transpose(1, 2).to(query.dtype),
                _gather(v_cache, slots).transpose(1, 2).to(query.dtype),
                attn_mask=keys <= position[:, None],
                enable_gqa=options.get("enable_gqa", False),
                scale=options.get("scaling"),
            )  # [N, H, Q, D]
            output[new] = attended.transpose(1, 2)[is_new]
        return output


def _gather(cache: Tensor, slots: Tensor) -> Tensor:
    """[slots, H, D], [N, L] -> [N, L, H, D]; the same as indexing, which does not copy a slot as a whole: it takes four
    times as long."""
    return cache.index_select(0, slots.flatten()).view(*slots.shape, *cache.shape[1:])


def _check_plain(encoder_lens: Tensor | None, options: dict[str, Any]) -> None:
    if (
        encoder_lens is not None
        or not options.get("causal", False)
        or options.get("is_cross_attn", False)
        or options.get("sliding_window_size") is not None
    ):
        raise NotImplementedError(
            "run.deterministic=true on a CPU serves causal models without sliding windows alone; set "
            "run.deterministic=false."
        )


def _is_plain(
    num_sequences: int,
    longest: int,
    k_cache: Tensor,
    encoder_lens: Tensor | None,
    options: dict[str, Any],
) -> bool:
    return (
        encoder_lens is None
        and not options.get("is_cross_attn", False)
        and options.get("sliding_window_size") is None
        and num_sequences * longest * k_cache.shape[1] * k_cache.shape[2] <= _MAX_PADDED_ELEMENTS
    )


def register(*, batch_invariant: bool) -> None:
    backend = BatchInvariantAttention if batch_invariant else BatchedTorchNativeAttention
    attention_registry.register_attention_backend("torch_native")(backend)
