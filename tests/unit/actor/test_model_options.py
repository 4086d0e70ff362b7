from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_ar3po.actor.model import Kernels, check_context_parallel, transformer_config
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape

SHAPE = ModelShape(
    path="MODEL",
    architecture="Qwen2ForCausalLM",
    num_layers=2,
    hidden_size=8,
    ffn_size=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=10,
    max_positions=64,
    norm_eps=1e-6,
    rope_theta=1e4,
    llama3_rope=None,
    has_qkv_bias=True,
    has_qk_norm=False,
    is_tied=False,
)
BARE = Kernels(has_cuda=False, has_transformer_engine=False, has_fused_weight_gradient=False)


def test_megatron_options_pass_through_under_their_own_names() -> None:
    actor = ActorConfig(megatron={"layernorm_epsilon": 1e-3})
    config = transformer_config(SHAPE, actor, torch.float32, BARE)
    assert config.layernorm_epsilon == 1e-3 and config.num_query_groups == 2


def test_layers_of_transformer_engine_are_made_where_they_stay() -> None:
    """On the host each rank would make every weight whole and in fp32, to keep its part of it."""
    engine = Kernels(has_cuda=True, has_transformer_engine=True, has_fused_weight_gradient=False)
    without_its_rope = ActorConfig(megatron={"apply_rope_fusion": False})  # it is not installed
    config = transformer_config(SHAPE, without_its_rope, torch.float32, engine)
    assert not config.use_cpu_initialization and not config.perform_initialization
    assert transformer_config(SHAPE, ActorConfig(), torch.float32, BARE).use_cpu_initialization


def test_an_unknown_megatron_option_names_the_nearest() -> None:
    actor = ActorConfig(megatron={"layernorm_epsilonn": 1e-3})
    with pytest.raises(
        ValueError, match=r"actor\.megatron\.layernorm_epsilonn .* did you mean layernorm_epsilon"
    ):
        transformer_config(SHAPE, actor, torch.float32, BARE)


def test_a_megatron_option_that_ours_decides_is_refused() -> None:
    actor = ActorConfig(megatron={"num_layers": 3})
    with pytest.raises(
        ValueError, match=r"actor\.megatron\.num_layers=3 clashes with .* model.path \(2\)"
    ):
        transformer_config(SHAPE, actor, torch.float32, BARE)


def test_the_log_line_says_which_kernels_are_in_use() -> None:
    assert (
        BARE.describe()
        == "Megatron's local layers, torch SDPA; fused: nothing; AdamW of torch; device cpu"
    )
    engine = Kernels(has_cuda=True, has_transformer_engine=True, has_fused_weight_gradient=True)
    assert engine.describe() == (
        "Transformer Engine's layers and attention; fused: rope, bias and activation, weight gradients (apex); "
        "AdamW of torch; device cuda"
    )


def test_context_parallelism_without_transformer_engine_is_refused_with_what_to_do() -> None:
    layout = ParallelLayout(world_size=2, context_parallel_size=2)
    with pytest.raises(
        ValueError, match=r"actor\.context_parallel_size=2 needs .*sequence_parallel=true"
    ):
        check_context_parallel(layout, BARE)
    check_context_parallel(ParallelLayout(), BARE)


def test_interleaved_pipelines_are_refused_by_name() -> None:
    actor = ActorConfig(megatron={"virtual_pipeline_model_parallel_size": 2})
    with pytest.raises(ValueError, match="interleaved pipelines are not supported"):
        transformer_config(SHAPE, actor, torch.float32, BARE)


def test_on_a_gpu_a_deterministic_run_puts_megatron_into_its_own_mode():
    """A CPU has no other one, and keeps its faster look-up of embeddings."""
    on_gpu = replace(BARE, has_cuda=True)
    for kernels, is_deterministic, expected in (
        (on_gpu, True, True),
        (on_gpu, False, False),
        (BARE, True, False),
    ):
        config = transformer_config(
            SHAPE, ActorConfig(), torch.float32, kernels, is_deterministic=is_deterministic
        )
        assert config.deterministic_mode is expected
