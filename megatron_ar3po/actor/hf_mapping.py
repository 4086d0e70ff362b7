"""Which Hugging Face tensors make up each Megatron parameter, and how TP cuts them. Shapes only: no model is needed,
so every rank knows the plan of every pipeline stage.

How a parameter is cut, under the names of Megatron's layers (r = tensor-parallel rank; weights are [out, in]):

    replicated               the same on every rank (norms)
    vocab_parallel           [vocabulary / tp, in], padded with zeros to a multiple of tp (embedding, output layer)
    row_parallel             [out, in / tp] (o_proj, down_proj)
    column_parallel_gate_up  [out / tp, in]: [gate rows of r; up rows of r]
    column_parallel_qkv      [out / tp, in]: for each group of r [its query heads; its key head; its value head]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from megatron_ar3po.model_shape import ModelShape, padded_vocab_size

Cut = Literal[
    "replicated", "vocab_parallel", "row_parallel", "column_parallel_gate_up", "column_parallel_qkv"
]
ReadRows = Callable[[str, int, int], Tensor]  # (name, first, last) -> rows of an HF tensor
ReadColumns = Callable[[str, int, int], Tensor]  # (name, first, last) -> columns of an HF tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One Megatron parameter of one pipeline stage."""

    name: str  # as the stage names it: layers count from 0 within the stage
    cut: Cut
    hf_names: tuple[str, ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    is_copy: bool = False  # the tied output layer of a later stage: loaded, never exported

    @property
    def num_elements(self) -> int:
        return sum(math.prod(s) for s in self.hf_shapes)


def stage_parameters(
    shape: ModelShape,
    *,
    first_layer: int,
    num_layers: int,
    is_first: bool,
    is_last: bool,
    fused_norms: bool,
) -> list[Parameter]:
    """`fused_norms`: Transformer Engine keeps a norm's weight in the linear layer behind it."""
    embedding = (shape.vocab_size, shape.hidden_size)
    parameters = []
    if is_first:
        parameters.append(
            _parameter(
                "embedding.word_embeddings.weight",
                "vocab_parallel",
                ("model.embed_tokens.weight", embedding),
            )
        )
    for i in range(num_layers):
        parameters += _layer(
            shape, f"decoder.layers.{i}.", f"model.layers.{first_layer + i}.", fused_norms
        )
    if is_last:
        norm = ("model.norm.weight", (shape.hidden_size,))
        parameters.append(_parameter("decoder.final_layernorm.weight", "replicated", norm))
        if not shape.is_tied:
            parameters.append(
                _parameter("output_layer.weight", "vocab_parallel", ("lm_head.weight", embedding))
            )
        elif not is_first:
            tied = ("model.embed_tokens.weight", embedding)
            parameters.append(
                _parameter("output_layer.weight", "vocab_parallel", tied, is_copy=True)
            )
    return parameters


def chunk_parameters(
    shape: ModelShape,
    *,
    stage: int,
    num_stages: int,
    chunk: int = 0,
    num_chunks: int = 1,
    fused_norms: bool,
) -> list[Parameter]:
    """Of one rank's model chunk. Layers are dealt out in rounds: all stages' first chunks, then all second ones (one
    chunk a stage: the plain pipeline). Chunks have equally many layers (ModelShape.check_layout)."""
    index, last = chunk * num_stages + stage, num_stages * num_chunks - 1
    layers = shape.num_layers // (last + 1)
    return stage_parameters(
        shape,
        first_layer=index * layers,
        num_layers=layers,
        is_first=index == 0,
        is_last=index == last,
        fused_norms=fused_norms,
    )


def shard_shape(parameter: Parameter, shape: ModelShape, tp: int) -> tuple[int, ...]:
    """Of what each tensor-parallel rank holds of `parameter`, vocabulary padding included."""
    rows = sum(size[0] for size in parameter.hf_shapes)
    tail = parameter.hf_shapes[0][1:]
    if parameter.cut == "replicated":
        return parameter.hf_shapes[0]
    if parameter.cut == "row_parallel":
        return (rows, tail[0] // tp)
    if parameter.cut == "vocab_parallel":
        return (padded_vocab_size(shape.vocab_size, tp) // tp, *tail)
    return (rows // tp, *tail)


def _layer(shape: ModelShape, m: str, h: str, fused_norms: bool) -> list[Parameter]:
    hidden, ffn, dim = shape.hidden_size, shape.ffn_size, shape.head_dim
    q, kv = shape.num_heads * dim, shape.num_kv_heads * dim
    norms = ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight")
    if not fused_norms:
        norms = ("input_layernorm.weight", "pre_mlp_layernorm.weight")
    attention = f"{h}self_attn."

    def heads(suffix: str, *tail: int) -> list[tuple[str, tuple[int, ...]]]:
        return [
            (f"{attention}{x}_proj.{suffix}", (rows, *tail))
            for x, rows in zip("qkv", (q, kv, kv), strict=True)
        ]

    layer = [
        _parameter(m + norms[0], "replicated", (h + "input_layernorm.weight", (hidden,))),
        _parameter(
            m + "self_attention.linear_qkv.weight", "column_parallel_qkv", *heads("weight", hidden)
        ),
        _parameter(
            m + "self_attention.linear_proj.weight",
            "row_parallel",
            (attention + "o_proj.weight", (hidden, q)),
        ),
        _parameter(m + norms[1], "replicated", (h + "post_attention_layernorm.weight", (hidden,))),
        _parameter(
            m + "mlp.linear_fc1.weight",
            "column_parallel_gate_up",
            (h + "mlp.gate_proj.weight", (ffn, hidden)),
            (h + "mlp.up_proj.weight", (ffn, hidden)),
        ),
        _parameter(
            m + "mlp.linear_fc2.weight", "row_parallel", (h + "mlp.down_proj.weight", (hidden, ffn))
        ),
    ]
    if shape.has_qkv_bias:
        layer.append(
            _parameter(m + "self_attention.linear_qkv.bias", "column_parallel_qkv", *heads("bias"))
        )
    if shape.has_qk_norm:
        for x in "qk":
            norm = (f"{attention}{x}_norm.weight", (dim,))
            layer.append(_parameter(f"{m}self_attention.{x}_layernorm.weight", "replicated", norm))
    return layer


def _parameter(
    name: str, cut: Cut, *hf: tuple[str, tuple[int, ...]], is_copy: bool = False
) -> Parameter:
    return Parameter(
        name=name,
        cut=cut,
        hf_names=tuple(n for n, _ in hf),
        hf_shapes=tuple(s for _, s in hf),
        is_copy=is_copy,
    )


def read_shard(
    parameter: Parameter,
    shape: ModelShape,
    tp: int,
    r: int,
    read_rows: ReadRows,
    read_columns: ReadColumns,
) -> Tensor:
    """This rank's part of `parameter`, reading nothing but that part."""
    names, sizes = parameter.hf_names, parameter.hf_shapes
    if parameter.cut == "replicated":
        return read_rows(names[0], 0, sizes[0][0])
    if parameter.cut == "vocab_parallel":
        share = padded_vocab_size(shape.vocab_size, tp) // tp
        first, last = min(r * share, shape.vocab_size), min((r + 1) * share, shape.vocab_size)
        real = read_rows(names[0], first, last)
        return torch.nn.functional.pad(real, (0, 0, 0, share - len(real)))
    if parameter.cut == "row_parallel":
        share = sizes[0][1] // tp
        return read_columns(names[0], r * share, (r + 1) * share)
    shares = [size[0] // tp for size in sizes]
    parts = [read_rows(n, r * k, (r + 1) * k) for n, k in zip(names, shares, strict=True)]
    if parameter.cut == "column_parallel_gate_up":
        return torch.cat(parts)
    groups = shape.num_kv_heads // tp
    return torch.cat(
        [x.reshape(groups, -1, shape.head_dim, *x.shape[1:]) for x in parts], 1
    ).flatten(0, 2)


def join_shards(
    parameter: Parameter, shape: ModelShape, shards: Sequence[Tensor]
) -> list[tuple[str, Tensor]]:
    """The HF tensors of `parameter` from its shards in TP order. With one shard the tensors may be views of it."""
    names = parameter.hf_names
    if parameter.cut == "replicated":
        return [(names[0], shards[0])]
    if parameter.cut == "vocab_parallel":
        return [(names[0], _cat(shards, 0)[: shape.vocab_size])]
    if parameter.cut == "row_parallel":
        return [(names[0], _cat(shards, 1))]
    if parameter.cut == "column_parallel_gate_up":
        pairs = [shard.chunk(2) for shard in shards]
        return [(name, _cat([pair[i] for pair in pairs], 0)) for i, name in enumerate(names)]
    per_group = shape.num_heads // shape.num_kv_heads
    grouped = [x.view(-1, per_group + 2, shape.head_dim, *x.shape[1:]) for x in shards]
    heads = _cat(grouped, 0).split([per_group, 1, 1], dim=1)
    return [(name, x.flatten(0, 2)) for name, x in zip(names, heads, strict=True)]


def _cat(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
