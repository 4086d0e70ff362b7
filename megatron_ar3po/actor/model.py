"""The policy as a Megatron-Core GPTModel: parallel state, layer spec, construction.

`PolicyModel` differs from GPTModel in two places. Its last stage returns hidden states, so that the output layer runs
only on the tokens the loss asks for (`token_logprobs`); and without Transformer Engine it hands every token its own row
of the rotary table, so that packed sequences need no loop.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from megatron.core import optimizer as megatron_optimizer
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from megatron_ar3po.actor import groups
from megatron_ar3po.actor.attention import PackedSegments, SegmentAttention, packed_segments
from megatron_ar3po.actor.hf_mapping import Parameter, stage_parameters
from megatron_ar3po.actor.megatron_options import check_megatron_options
from megatron_ar3po.actor.token_logprobs import token_logprobs
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape, padded_vocab_size
from megatron_ar3po.types import MicroBatch

logger = logging.getLogger(__name__)


def initialize_megatron(layout: ParallelLayout, seed: int, timeout_s: float = 1800.0) -> None:
    """Starts Megatron's parallel state over the running process group. Collective over all ranks."""
    assert torch.distributed.is_initialized(), (
        "start the process group before the actor (distributed.collectives)"
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor_parallel_size,
        pipeline_model_parallel_size=layout.pipeline_parallel_size,
        context_parallel_size=layout.context_parallel_size,
        distributed_timeout_minutes=max(1, round(timeout_s / 60)),
        create_gloo_process_groups=False,  # the host's side has its own (distributed.collectives)
    )
    ours = (
        layout.tp_rank,
        layout.data_parallel_size,
        layout.dp_rank,
        layout.pp_rank,
        layout.cp_rank,
    )
    theirs = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_data_parallel_world_size(),
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_context_parallel_rank(),
    )
    assert ours == theirs, (
        f"rank {layout.rank}: layout says (tp, dp size, dp, pp, cp) {ours}, Megatron says {theirs}"
    )
    model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


@dataclass(frozen=True, slots=True)
class Kernels:
    """What this machine offers, looked up once."""

    has_cuda: bool
    has_transformer_engine: bool
    has_fused_weight_gradient: bool  # apex

    @classmethod
    def detect(cls) -> Kernels:
        has_cuda = torch.cuda.is_available()
        return cls(
            has_cuda,
            has_cuda and importlib.util.find_spec("transformer_engine") is not None,
            has_cuda and importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None,
        )

    def describe(self) -> str:
        layers = "Megatron's local layers, torch SDPA"
        if self.has_transformer_engine:
            layers = "Transformer Engine's layers and attention"
        names = {
            "rope": self.has_transformer_engine,
            "bias and activation": self.has_cuda,
            "weight gradients (apex)": self.has_fused_weight_gradient,
        }
        fused = ", ".join(name for name, is_there in names.items() if is_there) or "nothing"
        device = "cuda" if self.has_cuda else "cpu"
        return f"{layers}; fused: {fused}; AdamW of {adam_package()}; device {device}"


def adam_package() -> str:
    """Whose Adam Megatron has found: transformer_engine's, apex's or torch's."""
    return megatron_optimizer.Adam.__module__.partition(".")[0]  # type: ignore[attr-defined]


class RMSNorm(torch.nn.Module):
    """Megatron's torch norm refuses sequence parallelism; this one marks its weight for the gradient sum over TP."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def transformer_config(
    shape: ModelShape,
    actor: ActorConfig,
    dtype: torch.dtype,
    kernels: Kernels,
    *,
    is_deterministic: bool = False,
) -> TransformerConfig:
    recompute: dict[str, Any] = {}
    if actor.recompute == "full":
        recompute = {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    options: dict[str, Any] = {
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "ffn_hidden_size": shape.ffn_size,
        "num_attention_heads": shape.num_heads,
        "num_query_groups": shape.num_kv_heads,
        "kv_channels": shape.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": shape.norm_eps,
        "qk_layernorm": shape.has_qk_norm,
        "add_bias_linear": False,
        "add_qkv_bias": shape.has_qkv_bias,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        # Filled from the checkpoint, then moved. Transformer Engine's layers would make each weight whole and in fp32
        # on every rank's host to cut their part out: they are made where they stay.
        "use_cpu_initialization": not kernels.has_transformer_engine,
        "perform_initialization": False,
        "tensor_model_parallel_size": actor.tensor_parallel_size,
        "pipeline_model_parallel_size": actor.pipeline_parallel_size,
        "context_parallel_size": actor.context_parallel_size,
        "sequence_parallel": actor.sequence_parallel,
        "variable_seq_lengths": True,
        "moe_token_dispatcher_type": "alltoall",  # what variable_seq_lengths asks for, dense models too
        "calculate_per_token_loss": True,  # plain sums: the weights of a micro-batch hold the denominator
        "bias_activation_fusion": kernels.has_cuda,
        "bias_dropout_fusion": kernels.has_cuda,
        "apply_rope_fusion": kernels.has_transformer_engine,
        "gradient_accumulation_fusion": kernels.has_fused_weight_gradient,
        "persist_layer_norm": False,
        "deterministic_mode": is_deterministic and kernels.has_cuda,  # a CPU has no other one
        **recompute,
    }
    check_megatron_options(actor.megatron, shape)
    try:
        return TransformerConfig(**options | actor.megatron)
    except (ValueError, AssertionError, TypeError) as error:
        if not actor.megatron:
            raise
        raise ValueError(
            f"actor.megatron={actor.megatron}: Megatron's TransformerConfig refuses it: {error}"
        ) from error


def _layer_spec(config: TransformerConfig, kernels: Kernels) -> Any:
    if kernels.has_transformer_engine:
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
    layer: Any = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    layer.self_attention.submodules.core_attention = SegmentAttention
    if config.qk_layernorm:
        layer.self_attention.submodules.q_layernorm = RMSNorm
        layer.self_attention.submodules.k_layernorm = RMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[spec] * get_num_layers_to_build(config), layer_norm=cast(Any, RMSNorm)
    )


class PolicyModel(GPTModel):
    """One pipeline stage of the policy."""

    def __init__(self, shape: ModelShape, config: TransformerConfig, kernels: Kernels) -> None:
        super().__init__(
            config=config,
            transformer_layer_spec=_layer_spec(config, kernels),
            vocab_size=padded_vocab_size(shape.vocab_size, config.tensor_model_parallel_size),
            max_sequence_length=shape.max_positions,
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
            parallel_output=True,
            share_embeddings_and_output_weights=shape.is_tied,
            position_embedding_type="rope",
            rotary_base=cast(int, shape.rope_theta),
        )
        self.shape, self.kernels = shape, kernels
        if shape.llama3_rope is not None:  # Megatron's own switch knows the factor only
            scaling, rope = shape.llama3_rope, cast(Any, self.rotary_pos_emb)
            rope.inv_freq = rope._apply_scaling(
                rope.inv_freq,
                factor=scaling.factor,
                low_freq_factor=scaling.low_freq_factor,
                high_freq_factor=scaling.high_freq_factor,
                original_max_position_embeddings=scaling.original_max_positions,
            )

    def hf_parameters(self) -> list[Parameter]:
        """What each parameter of this stage is made of."""
        return stage_parameters(
            self.shape,
            first_layer=get_transformer_layer_offset(self.config),
            num_layers=len(self.decoder.layers),
            is_first=self.pre_process,
            is_last=self.post_process,
            fused_norms=self.kernels.has_transformer_engine,
        )

    def packing(self, cu_seqlens: Tensor) -> PackedSeqParams:
        """What attention needs to know of a micro-batch, on this model's device."""
        if not self.kernels.has_transformer_engine:
            return packed_segments(cu_seqlens, "cuda" if self.kernels.has_cuda else "cpu")
        longest = int(cu_seqlens.diff().max())
        bounds = cu_seqlens.cuda(non_blocking=True)
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )

    def _preprocess(
        self, input_ids: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        prepared = super()._preprocess(input_ids, position_ids, *args, **kwargs)
        if not isinstance(kwargs.get("packed_seq_params"), PackedSegments):
            return prepared
        hidden, rotary, *rest = (
            prepared  # [T, 1, H] or None behind the first stage; [longest, 1, 1, dim]
        )
        assert rotary is not None
        return (hidden, rotary.index_select(0, position_ids[0]), *rest)

    def _postprocess(
        self,
        hidden_states: Tensor,  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
        *_: Any,
        **__: Any,
    ) -> Tensor:
        """As they are: Megatron would run the output layer over all tokens."""
        return hidden_states

    def token_logprobs(
        self,
        hidden: Tensor,  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
        micro_batch: MicroBatch,
        *,
        temperature: float,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """(log-probs [T], entropy [T] if asked for) of `micro_batch.target_ids`, 0 off the response. Last stage only;
        collective over TP, the same on each of its ranks. `hidden` is what the forward returned, behind its norm."""
        has_loss = micro_batch.loss_mask > 0
        indices = has_loss.nonzero()[:, 0]
        is_dummy = indices.numel() == 0
        if is_dummy:  # one token of weight 0 keeps the collectives and the graph as everywhere
            indices = indices.new_zeros(1)
        if self.config.sequence_parallel:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=True
            )
            chosen = hidden[:, 0].index_select(0, indices)
        else:
            chosen = hidden[:, 0].index_select(0, indices)
            chosen = tensor_parallel.copy_to_tensor_model_parallel_region(chosen)
        weight, first_token = self._output_rows()
        logprobs, entropy = token_logprobs(
            chosen,
            weight,
            micro_batch.target_ids.index_select(0, indices),
            temperature=temperature,
            chunk_tokens=chunk_tokens,
            first_token=first_token,
            tp_group=groups.tensor_parallel(),
            with_entropy=with_entropy,
        )

        def scatter(values: Tensor) -> Tensor:
            zeros = torch.zeros_like(micro_batch.loss_mask)
            return zeros.index_copy(0, indices, values * 0.0 if is_dummy else values)

        return scatter(logprobs), None if entropy is None else scatter(entropy)

    def _output_rows(self) -> tuple[Tensor, int]:
        """(rows of real tokens in this rank's slice of the output weight, the first one's token id)."""
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        assert weight is not None
        first = parallel_state.get_tensor_model_parallel_rank() * len(weight)
        return weight[: max(0, self.shape.vocab_size - first)], first


def build_model(
    shape: ModelShape,
    layout: ParallelLayout,
    actor: ActorConfig,
    dtype: torch.dtype,
    *,
    is_deterministic: bool = False,
) -> PolicyModel:
    """This rank's stage, parameters not yet filled, on the host. Collective when embeddings are tied over stages."""
    shape.check_layout(layout)
    kernels = Kernels.detect()
    check_context_parallel(layout, kernels)
    if layout.rank == 0:
        logger.info("actor: %s; %s", kernels.describe(), layout.describe())
    settings = transformer_config(shape, actor, dtype, kernels, is_deterministic=is_deterministic)
    model = PolicyModel(shape, settings, kernels)
    _mark_cut_parameters(model)
    model.train()  # no dropout: train mode only switches activation recompute on
    return model


def check_context_parallel(layout: ParallelLayout, kernels: Kernels) -> None:
    if layout.context_parallel_size > 1 and not kernels.has_transformer_engine:
        raise ValueError(
            f"actor.context_parallel_size={layout.context_parallel_size} needs Transformer Engine's attention, and "
            "Transformer Engine is not in use here (it needs a GPU; the image has it). Set "
            "actor.context_parallel_size=1; long sequences also fit with actor.sequence_parallel=true, "
            "actor.recompute=full or a larger actor.tensor_parallel_size."
        )


def _mark_cut_parameters(model: PolicyModel) -> None:
    """Megatron's layers mark a parameter as cut over TP while they initialise it, which ours never do. Unmarked, every
    TP rank but the first would be left out of the gradient norm."""
    named = dict(model.named_parameters())
    for parameter in model.hf_parameters():
        tensor = named[parameter.name]
        if parameter.cut != "replicated" and not hasattr(tensor, "tensor_model_parallel"):
            dim = 1 if parameter.cut == "row_parallel" else 0
            tensor_parallel.set_tensor_model_parallel_attributes(tensor, True, dim, 1)
