"""Shapes, names and cuts, without a model. tests/parallel does the round trip through real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.model_config import write_model_config
from safetensors.torch import save_file

from megatron_ar3po.actor.hf_import import HfTensors, check_tensors, expected_tensors
from megatron_ar3po.actor.hf_mapping import (
    Parameter,
    join_shards,
    read_shard,
    stage_parameters,
)
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape, padded_vocab_size, read_policy_shape


def tensors_of(shape: ModelShape) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator) for n, s in expected_tensors(shape).items()}


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    return read_policy_shape(write_model_config(tmp_path))


@pytest.mark.parametrize(
    ("vocab", "tp", "padded"), [(20, 1, 128), (129, 2, 256), (256, 4, 256), (10, 3, 384)]
)
def test_the_vocabulary_is_padded_alike_at_every_layout(vocab: int, tp: int, padded: int) -> None:
    assert padded_vocab_size(vocab, tp) == padded


@pytest.mark.parametrize("tp", [1, 2])
def test_shards_joined_are_the_tensors_that_were_cut(shape: ModelShape, tp: int) -> None:
    tensors = tensors_of(shape)
    plan = stage_parameters(
        shape, first_layer=0, num_layers=2, is_first=True, is_last=True, fused_norms=False
    )
    seen = set()
    for parameter in plan:
        shards = [
            read_shard(
                parameter,
                shape,
                tp,
                r,
                lambda name, a, b: tensors[name][a:b],
                lambda name, a, b: tensors[name][:, a:b],
            )
            for r in range(tp)
        ]
        for name, tensor in join_shards(parameter, shape, shards):
            assert torch.equal(tensor, tensors[name]), name
            seen.add(name)
    assert seen == set(tensors)


def test_qkv_is_grouped_by_key_head(shape: ModelShape) -> None:
    """4 query heads, 2 key heads of size 2: [q0 q1 k0 v0 | q2 q3 k1 v1]; heads are marked by their number."""
    heads = {"q": [0.0, 1.0, 2.0, 3.0], "k": [10.0, 11.0], "v": [20.0, 21.0]}
    tensors = {
        x: torch.tensor(marks).repeat_interleave(2)[:, None].expand(-1, 8)
        for x, marks in heads.items()
    }
    parameter = Parameter(
        name="qkv",
        cut="column_parallel_qkv",
        hf_names=("q", "k", "v"),
        hf_shapes=((8, 8), (4, 8), (4, 8)),
    )
    whole = read_shard(
        parameter, shape, 1, 0, lambda n, a, b: tensors[n][a:b], lambda *_: torch.empty(0)
    )
    assert whole[::2, 0].tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_tied_embeddings_are_loaded_on_both_ends_and_exported_once(tmp_path: Path) -> None:
    tied = read_policy_shape(write_model_config(tmp_path, tie_word_embeddings=True))
    last = stage_parameters(
        tied, first_layer=1, num_layers=1, is_first=False, is_last=True, fused_norms=False
    )
    head = next(p for p in last if p.name == "output_layer.weight")
    assert head.hf_names == ("model.embed_tokens.weight",) and head.is_copy
    assert "lm_head.weight" not in expected_tensors(tied)


def test_transformer_engine_keeps_norms_in_the_linear_layers(shape: ModelShape) -> None:
    plan = stage_parameters(
        shape, first_layer=0, num_layers=1, is_first=False, is_last=False, fused_norms=True
    )
    by_name = {p.name: p.hf_names for p in plan}
    assert by_name["decoder.layers.0.self_attention.linear_qkv.layer_norm_weight"] == (
        "model.layers.0.input_layernorm.weight",
    )
    assert by_name["decoder.layers.0.mlp.linear_fc1.layer_norm_weight"] == (
        "model.layers.0.post_attention_layernorm.weight",
    )


def test_the_32b_shape_has_32_763_876_352_parameters(tmp_path: Path) -> None:
    big = read_policy_shape(
        write_model_config(
            tmp_path,
            num_hidden_layers=64,
            hidden_size=5120,
            intermediate_size=27648,
            num_attention_heads=40,
            num_key_value_heads=8,
            vocab_size=152064,
        )
    )
    assert sum(torch.Size(s).numel() for s in expected_tensors(big).values()) == 32_763_876_352


def check(folder: Path, shape: ModelShape, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")
    opened = HfTensors(folder)
    try:
        check_tensors(shape, opened)
    finally:
        opened.close()


def test_a_whole_checkpoint_passes_and_is_read_as_it_was_saved(
    tmp_path: Path, shape: ModelShape
) -> None:
    saved = tensors_of(shape)
    check(tmp_path, shape, saved)
    opened = HfTensors(tmp_path)
    read = {name: opened.read_whole(name) for name in opened.in_file_order(sorted(saved))}
    opened.close()
    assert read.keys() == saved.keys()
    assert [name for name, tensor in saved.items() if not torch.equal(read[name], tensor)] == []


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path, shape: ModelShape) -> None:
    tensors = tensors_of(shape)
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    tensors["model.layers.2.input_layernorm.weight"] = torch.ones(8)
    tensors["model.norm.weight"] = torch.ones(9)
    with pytest.raises(ValueError) as caught:
        check(tmp_path, shape, tensors)
    message = str(caught.value)
    assert "missing: model.layers.1.self_attn.k_proj.bias" in message
    assert "not part of the model: model.layers.2.input_layernorm.weight" in message
    assert "model.norm.weight is [9], config.json says [8]" in message


def test_a_value_that_is_not_finite_is_named(tmp_path: Path, shape: ModelShape) -> None:
    tensors = tensors_of(shape)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    opened = HfTensors(tmp_path)
    with pytest.raises(ValueError, match=r"model\.norm\.weight .* 1 values that are NaN"):
        opened.read_rows("model.norm.weight", 0, 8)
    opened.close()


def test_a_folder_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        HfTensors(tmp_path)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path=.*nowhere holds no config\.json"):
        read_policy_shape(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "is a MixtralForCausalLM checkpoint"),
        ({"use_sliding_window": True}, "sets use_sliding_window=True"),
        ({"hidden_act": "gelu"}, "sets hidden_act='gelu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "asks for rope_type='yarn'"),
    ],
)
def test_what_the_actor_cannot_compute_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_policy_shape(write_model_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("tp", "pp", "message"),
    [
        (4, 1, r"tensor_parallel_size=4 does not divide num_key_value_heads=2 of .*; use 1, 2\."),
        (1, 4, r"pipeline_parallel_size=4 does not divide num_hidden_layers=2 of .*; use 1, 2\."),
    ],
)
def test_a_layout_that_cannot_cut_the_model_says_which_can(
    shape: ModelShape, tp: int, pp: int, message: str
) -> None:
    layout = ParallelLayout(world_size=4, tensor_parallel_size=tp, pipeline_parallel_size=pp)
    with pytest.raises(ValueError, match=message):
        shape.check_layout(layout)


def test_both_spellings_of_rope_are_read(tmp_path: Path) -> None:
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    llama = {"architectures": ["LlamaForCausalLM"], "attention_bias": False}
    old = read_policy_shape(
        write_model_config(tmp_path, **llama, rope_theta=5e5, rope_scaling=llama3)
    )
    new = read_policy_shape(
        write_model_config(
            tmp_path, **llama, rope_theta=None, rope_parameters=llama3 | {"rope_theta": 5e5}
        )
    )
    assert old == new
    assert old.rope_theta == 5e5 and old.llama3_rope is not None
    assert old.llama3_rope.original_max_positions == 8192
