"""What a run will hold in memory, per GPU and phase, from an HF `config.json` and the config alone. Plain arithmetic:
no torch, no GPU, no model files.

Exact: parameter counts, weights, gradients, optimizer state, KV cache. Estimated: activations (with fused attention,
after arXiv:2205.05198), the log-prob chunks and the runtime's own share. The largest rank of the layout is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape
from megatron_ar3po.servers.arguments import MEM_FRACTION_STATIC

GIB = 1024**3
RUNTIME_BYTES = int(2.5 * GIB)  # CUDA context, NCCL buffers, cuBLAS workspaces, allocator slack


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
    save_host_bytes_per_rank: int  # beside that, from a save until it is written

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
    config: Config, shape: ModelShape, layout: ParallelLayout, *, gpus_per_node: int, gpu_bytes: int
) -> MemoryEstimate:
    width = 2 if config.model.dtype == "bfloat16" else 4
    tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
    held = shape.parameters_of_largest_rank(tp, pp)
    # fp32 master copy (bf16 only) and two moments; the distributed optimizer shares them out over DP
    sharing = layout.data_parallel_size if config.actor.use_distributed_optimizer else 1
    optimizer = held * (12 if width == 2 else 8) // sharing

    server_tp = max(1, server_tensor_parallel_size(config, layout, gpus_per_node))
    server_weights = shape.num_parameters * width // server_tp
    kv_heads = max(1, shape.num_kv_heads // server_tp)
    kv_per_token = 2 * shape.num_layers * kv_heads * shape.head_dim * width
    share = float(config.servers.sglang.get("mem_fraction_static", MEM_FRACTION_STATIC))
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
                "activations": activation_bytes(config, shape, layout, width),
                "log-probs": 3 * config.actor.logprob_chunk_tokens * shape.vocab_size // tp * 4,
                "runtime": RUNTIME_BYTES,
            },
        ),
        PhaseMemory(
            phase="sync",
            parts={
                "server weights": server_weights,
                "weights": held * width,
                "buckets": publish_bytes(config, layout),
                "runtime": RUNTIME_BYTES,
            },
        ),
        PhaseMemory(
            phase="save",
            parts={
                "server weights": server_weights,
                **save_parts(weights=held * width, gradients=held * 4, optimizer=optimizer),
                "runtime": RUNTIME_BYTES,
            },
        ),
    )
    return MemoryEstimate(
        phases=phases,
        kv_bytes_per_token=kv_per_token,
        kv_tokens=kv_cache // kv_per_token,
        host_bytes_per_rank=held * width + optimizer,
        save_host_bytes_per_rank=save_host_bytes(
            weights=held * width, optimizer=optimizer, layout=layout
        ),
    )


def activation_bytes(config: Config, shape: ModelShape, layout: ParallelLayout, width: int) -> int:
    """What one rank keeps for the backward pass, the micro-batches in flight included.

    Per token and layer: four vectors of hidden size that only sequence parallelism cuts, and the projections, which
    tensor parallelism cuts. With full recompute each layer keeps its input alone, and one layer is whole at a time.
    """
    tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
    along_sequence = tp if config.actor.sequence_parallel else 1
    projections = 2 * shape.q_size + 2 * shape.kv_size + 3 * shape.ffn_size
    layer = 4 * shape.hidden_size // along_sequence + projections // tp
    layer_input = shape.hidden_size // along_sequence
    layers = shape.num_layers // pp
    in_flight = pp  # of the first stage under one-forward-one-backward
    kept = layers * in_flight * (layer_input if config.actor.recompute == "full" else layer)
    whole = layer if config.actor.recompute == "full" else 0
    return config.actor.max_tokens_per_microbatch * width * (kept + whole)


def publish_bytes(config: Config, layout: ParallelLayout) -> int:
    """Beside the weights, on a GPU that hands buckets over: one flat bucket is filled while a server reads the other.
    Over TP or PP it also holds what was gathered, and the tensors made of it (`actor.hf_export`,
    `weight_sync.shared_bucket`)."""
    is_whole = layout.tensor_parallel_size * layout.pipeline_parallel_size == 1
    return (2 if is_whole else 4) * config.weight_sync.bucket_bytes


def save_parts(*, weights: int, gradients: int, optimizer: int) -> dict[str, int]:
    """The actor's, on a GPU at a save: what trains lies there, and nothing beside it, since each rank copies its own
    part to the host and gathers nothing (`actor.optimizer_state`)."""
    return {"weights": weights, "gradients": gradients, "optimizer": optimizer}


def save_host_bytes(*, weights: int, optimizer: int, layout: ParallelLayout) -> int:
    """One copy of what this rank writes: its part of the optimizer, its share of the weights that its data-parallel
    peers hold too (context-parallel ones among them)."""
    peers = layout.data_parallel_size * layout.context_parallel_size
    return weights // peers + optimizer
