"""What a run will hold in memory, per GPU and phase, from an HF `config.json` and the config alone. Plain arithmetic:
no torch, no GPU, no model files.

Exact: parameter counts, weights, gradients, optimizer state, KV cache. Estimated: activations (with fused attention,
after arXiv:2205.05198), the log-prob chunks and the runtime's own share. The largest rank of the layout is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout

GIB = 1024**3
RUNTIME_BYTES = int(2.5 * GIB)  # CUDA context, NCCL buffers, cuBLAS workspaces, allocator slack
DEFAULT_MEM_FRACTION_STATIC = 0.85  # SGLang's weights and KV cache, as a share of the GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The counts of a dense Qwen2, Qwen3 or Llama decoder."""

    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    has_qkv_bias: bool
    has_qk_norm: bool
    is_tied: bool

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> ModelSize:
        """From the object in `config.json`."""
        architecture = (values.get("architectures") or ["?"])[0]
        if architecture not in ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"):
            raise ValueError(
                f"config.json names architecture {architecture}, whose size is not known here; use a dense Qwen2, "
                "Qwen3 or Llama model."
            )
        heads, hidden = int(values["num_attention_heads"]), int(values["hidden_size"])
        return cls(
            num_layers=int(values["num_hidden_layers"]),
            hidden_size=hidden,
            ffn_size=int(values["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(values.get("head_dim") or hidden // heads),
            vocab_size=int(values["vocab_size"]),
            has_qkv_bias=bool(values.get("attention_bias", architecture == "Qwen2ForCausalLM")),
            has_qk_norm=architecture == "Qwen3ForCausalLM",
            is_tied=bool(values.get("tie_word_embeddings", False)),
        )

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def sharded_layer_parameters(self) -> int:
        """Of one layer, what tensor parallelism cuts."""
        qkv = self.q_size + 2 * self.kv_size
        attention = self.hidden_size * (qkv + self.q_size) + (qkv if self.has_qkv_bias else 0)
        return attention + 3 * self.hidden_size * self.ffn_size

    @property
    def whole_layer_parameters(self) -> int:
        """Of one layer, what every tensor-parallel rank holds: the norms."""
        return 2 * self.hidden_size + (2 * self.head_dim if self.has_qk_norm else 0)

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        layers = self.num_layers * (self.sharded_layer_parameters + self.whole_layer_parameters)
        embeddings = self.embedding_parameters * (1 if self.is_tied else 2)
        return layers + embeddings + self.hidden_size

    def parameters_of_largest_rank(self, tp: int, pp: int) -> int:
        """The first and the last pipeline stage hold an embedding each; with one stage the same rank holds both."""
        layers = self.num_layers // pp
        held = layers * (self.sharded_layer_parameters // tp + self.whole_layer_parameters)
        tables = 2 if pp == 1 and not self.is_tied else 1
        return held + tables * self.embedding_parameters // tp + self.hidden_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseMemory:
    """One line of the table: what lies on the GPU in a phase. Bytes."""

    phase: str
    parts: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    phases: tuple[PhaseMemory, ...]
    kv_bytes_per_token: int  # of one server GPU
    kv_tokens: int  # that fit on one server
    host_bytes_per_rank: int  # what the actor parks on the CPU during rollouts

    def over(self, gpu_bytes: int) -> list[PhaseMemory]:
        """The phases that do not fit."""
        return [phase for phase in self.phases if phase.total_bytes > gpu_bytes]


def server_tensor_parallel_size(config: Config, layout: ParallelLayout, gpus_per_node: int) -> int:
    """GPUs of one server: the replica's GPUs on its leader's node, shared out over the servers there. A server never
    spans nodes; the servers of a replica are spread over its nodes."""
    ranks = layout.replica_ranks(0)
    on_leaders_node = sum(rank // gpus_per_node == ranks[0] // gpus_per_node for rank in ranks)
    num_nodes = len({rank // gpus_per_node for rank in ranks})
    servers_there = max(1, config.servers.servers_per_replica // num_nodes)
    return on_leaders_node // servers_there


def estimate_memory(
    config: Config, size: ModelSize, layout: ParallelLayout, *, gpus_per_node: int, gpu_bytes: int
) -> MemoryEstimate:
    width = 2 if config.model.dtype == "bfloat16" else 4
    tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
    held = size.parameters_of_largest_rank(tp, pp)
    # fp32 master copy (bf16 only) and two moments; the distributed optimizer shares them out over DP
    sharing = layout.data_parallel_size if config.actor.use_distributed_optimizer else 1
    optimizer = held * (12 if width == 2 else 8) // sharing

    server_tp = max(1, server_tensor_parallel_size(config, layout, gpus_per_node))
    server_weights = size.num_parameters * width // server_tp
    kv_heads = max(1, size.num_kv_heads // server_tp)
    kv_per_token = 2 * size.num_layers * kv_heads * size.head_dim * width
    share = float(config.servers.sglang.get("mem_fraction_static", DEFAULT_MEM_FRACTION_STATIC))
    kv_cache = max(0, int(gpu_bytes * share) - server_weights)

    reference = {"reference weights": held * width} if config.algorithm.kl_coef > 0 else {}
    phases = (
        PhaseMemory(
            phase="rollout",
            parts={
                "server weights": server_weights,
                "KV cache": kv_cache,
                "runtime": RUNTIME_BYTES,
            },
        ),
        PhaseMemory(
            phase="train",
            parts={
                "weights": held * width,
                **reference,
                "gradients": held * 4,
                "optimizer": optimizer,
                "activations": activation_bytes(config, size, layout, width),
                "log-probs": 3 * config.actor.logprob_chunk_tokens * size.vocab_size // tp * 4,
                "runtime": RUNTIME_BYTES,
            },
        ),
        PhaseMemory(
            phase="sync",
            parts={
                "server weights": server_weights,
                "weights": held * width,
                "buckets": 2 * config.weight_sync.bucket_bytes,
                "runtime": RUNTIME_BYTES,
            },
        ),
    )
    return MemoryEstimate(
        phases=phases,
        kv_bytes_per_token=kv_per_token,
        kv_tokens=kv_cache // kv_per_token,
        host_bytes_per_rank=held * width + optimizer,
    )


def activation_bytes(config: Config, size: ModelSize, layout: ParallelLayout, width: int) -> int:
    """What one rank keeps for the backward pass, the micro-batches in flight included.

    Per token and layer: four vectors of hidden size that only sequence parallelism cuts, and the projections, which
    tensor parallelism cuts. With full recompute each layer keeps its input alone, and one layer is whole at a time.
    """
    tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
    along_sequence = tp if config.actor.sequence_parallel else 1
    projections = 2 * size.q_size + 2 * size.kv_size + 3 * size.ffn_size
    layer = 4 * size.hidden_size // along_sequence + projections // tp
    layer_input = size.hidden_size // along_sequence
    layers = size.num_layers // pp
    in_flight = pp  # of the first stage under one-forward-one-backward
    kept = layers * in_flight * (layer_input if config.actor.recompute == "full" else layer)
    whole = layer if config.actor.recompute == "full" else 0
    return config.actor.max_tokens_per_microbatch * width * (kept + whole)
