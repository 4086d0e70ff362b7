"""What a run will hold in memory, per GPU and phase, from an HF `config.json` and the config alone. Plain arithmetic:
no torch, no GPU, no model files.

Who holds what in a phase is `colocation.PHASES`, by which the run itself places the memory. Exact: parameter counts,
weights, gradients, optimizer state, KV cache, a checkpoint's size. Estimated: activations (with fused attention, after
arXiv:2205.05198), the log-prob chunks, the gradient of the output weight, and what the runtimes of actor and server
hold. The largest rank of the layout is shown. docs/sizing.md has each formula with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_ar3po.colocation import holders
from megatron_ar3po.config.log_size import most_log_bytes
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape
from megatron_ar3po.reporting.checkpoint_size import checkpoint_bytes, width_of
from megatron_ar3po.servers.arguments import MEM_FRACTION_STATIC
from megatron_ar3po.wiring.layout_checks import (
    gpus_of_replica_on_a_node,
    server_tensor_parallel_size,
)

GIB, MIB = 1024**3, 1024**2
# Held from start to end, also by an actor that is parked and a server that sleeps. Estimates.
ACTOR_RUNTIME_BYTES = 5 * GIB // 2  # CUDA context, NCCL buffers, cuBLAS workspaces, allocator slack
GATE_RUNTIME_BYTES = 1 * GIB  # context and NCCL of a server at its gate
SERVER_WORKSPACE_BYTES = 1 * GIB  # attention's and cuBLAS's workspaces of one that has started
GRAPH_BYTES_PER_SEQUENCE = 2 * MIB  # SGLang's own estimate: arg_groups/memory_hook.py:368 (0.5.23)
# Sequences in the largest CUDA graph by the GPU's memory, below TP 4 and from it on: memory_hook.py:90-170.
GRAPH_SEQUENCES = ((20, 8, 8), (35, 48, 160), (60, 32, 160), (160, 256, 512))
MOST_GRAPH_SEQUENCES = 512
TIGHT_FRAC = 0.05


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
    host_bytes_per_rank: (
        int  # what the actor parks there in rollouts; the room stays to the end of the run
    )
    save_host_bytes_per_rank: int  # beside that, from a save until it is written
    checkpoint_bytes: int  # of one, on disk
    export_bytes: int  # of the Hugging Face folder at the end
    response_log_bytes: int  # at most, while the oldest checkpoint that is kept stands

    def disk_bytes(self, keep_last: int) -> int:
        """At most: the checkpoints that are kept, the one that is being written, and the rest."""
        checkpoints = (keep_last + 1) * self.checkpoint_bytes
        return checkpoints + self.export_bytes + self.response_log_bytes

    def over(self, gpu_bytes: int) -> list[PhaseMemory]:
        """The phases that do not fit."""
        return [phase for phase in self.phases if phase.total_bytes > gpu_bytes]

    def tight(self, gpu_bytes: int) -> list[PhaseMemory]:
        """The phases that fit with less than 5% to spare: a longer batch, or another driver, and they do not."""
        most = gpu_bytes * (1 - TIGHT_FRAC)
        return [phase for phase in self.phases if most < phase.total_bytes <= gpu_bytes]

    def of(self, phase: str) -> Mapping[str, int]:
        """What lies on the GPU in it."""
        return next(row.parts for row in self.phases if row.phase == phase)


def server_gpus(config: Config, layout: ParallelLayout, gpus_per_node: int) -> int:
    """GPUs of one server; where they cannot be shared out over the servers, those of the replica on a node."""
    try:
        return server_tensor_parallel_size(config, layout, gpus_per_node)
    except ValueError:
        return gpus_of_replica_on_a_node(layout, gpus_per_node)


def estimate_memory(
    config: Config, shape: ModelShape, layout: ParallelLayout, *, gpus_per_node: int, gpu_bytes: int
) -> MemoryEstimate:
    width = width_of(config)
    actor = actor_bytes(config, shape, layout, width)
    kept = parked_weights(config, actor)
    server_tp = server_gpus(config, layout, gpus_per_node)
    server_weights = shape.num_parameters * width // server_tp
    static = static_bytes(config, kept, gpu_bytes)
    server = {"weights": server_weights, "kv_cache": max(0, static - server_weights)}
    graphs = graph_bytes(config, server_tp, gpu_bytes)
    beside = _made_by_phases(config, shape, layout, actor, is_kept=bool(kept))
    phases = tuple(
        PhaseMemory(
            phase=phase,
            parts={
                name: size
                for part in (_parts(config, phase, server, actor), more, _runtime(phase, graphs))
                for name, size in part.items()
                if size
            },
        )
        for phase, more in beside.items()
    )
    kv_per_token = kv_bytes_per_token(shape, server_tp, width)
    # The reference's weights, and the policy's while the two have changed places.
    reference = 2 * actor["weights"] if config.algorithm.kl_coef != 0 else 0
    in_background = config.checkpoint.in_background
    return MemoryEstimate(
        phases=phases,
        kv_bytes_per_token=kv_per_token,
        kv_tokens=server["kv_cache"] // kv_per_token,
        host_bytes_per_rank=actor["weights"] - kept + actor["optimizer"] + reference,
        save_host_bytes_per_rank=save_host_bytes(actor, layout) if in_background else 0,
        checkpoint_bytes=checkpoint_bytes(config, shape),
        export_bytes=shape.num_parameters * width if config.checkpoint.export_hf else 0,
        response_log_bytes=most_log_bytes(config),
    )


def _made_by_phases(
    config: Config,
    shape: ModelShape,
    layout: ParallelLayout,
    actor: Mapping[str, int],
    *,
    is_kept: bool,
) -> dict[str, dict[str, int]]:
    """What a phase itself makes, beside what is placed in it."""
    width, buckets = width_of(config), publish_bytes(config, layout)
    return {
        # Weights lie there twice while Megatron packs them into its buffers, before the optimizer is made.
        "start": {"packing": max(0, actor["weights"] - actor["optimizer"])},
        "rollout": {},
        # A server that dies in a rollout is given the actor's weights while its own cache is there.
        "revival": {"weights": 0 if is_kept else actor["weights"], "buckets": buckets},
        "train": {
            "activations": activation_bytes(config, shape, layout, width),
            "log-probs": logprob_bytes(config, shape, layout),
            "output gradient": output_gradient_bytes(config, shape, layout, width),
        },
        "sync": {"buckets": buckets},
        "save": {},  # each rank copies its own part to the host and gathers nothing (`actor.optimizer_state`)
    }


def _parts(
    config: Config, phase: str, server: Mapping[str, int], actor: Mapping[str, int]
) -> dict[str, int]:
    """By the table that places them; a revival happens in a rollout."""
    held = holders(
        "rollout" if phase == "revival" else phase,
        keep_actor_weights=config.colocation.keep_actor_weights,
    )
    names = {"weights": "server weights", "kv_cache": "KV cache"}
    return {
        **{names[part]: size for part, size in server.items() if part in held.server},
        **{part: size for part, size in actor.items() if part in held.actor},
    }


def _runtime(phase: str, graphs: int) -> dict[str, int]:
    """A server that sleeps keeps its context, its workspaces and its CUDA graphs."""
    if phase == "start":
        return {"actor runtime": ACTOR_RUNTIME_BYTES, "server runtime": GATE_RUNTIME_BYTES}
    return {
        "actor runtime": ACTOR_RUNTIME_BYTES,
        "server runtime": GATE_RUNTIME_BYTES + SERVER_WORKSPACE_BYTES,
        "CUDA graphs": graphs,
    }


def graph_bytes(config: Config, server_tp: int, gpu_bytes: int) -> int:
    """Of a server, on one of its GPUs; no more sequences than it is sent."""
    options = config.servers.sglang
    if options.get("disable_cuda_graph"):
        return 0
    default = MOST_GRAPH_SEQUENCES
    for below_gib, few_gpus, many_gpus in GRAPH_SEQUENCES:
        if gpu_bytes < below_gib * GIB:
            default = few_gpus if server_tp < 4 else many_gpus
            break
    sequences = options.get("cuda_graph_max_bs") or default
    return GRAPH_BYTES_PER_SEQUENCE * min(sequences, options.get("max_running_requests", sequences))


def actor_bytes(
    config: Config, shape: ModelShape, layout: ParallelLayout, width: int
) -> dict[str, int]:
    """`colocation.ACTOR_PARTS` of the largest rank. The optimizer: an fp32 copy of the weights (bf16 only) and two
    moments, which the distributed optimizer shares out over the ranks that hold the same weights, context-parallel
    ones among them."""
    held = shape.parameters_of_largest_rank(
        layout.tensor_parallel_size, layout.pipeline_parallel_size
    )
    sharing = weight_peers(layout) if config.actor.use_distributed_optimizer else 1
    optimizer = held * (12 if width == 2 else 8) // sharing
    return {"weights": held * width, "gradients": held * 4, "optimizer": optimizer}


def weight_peers(layout: ParallelLayout) -> int:
    """Ranks that hold the same weights."""
    return layout.data_parallel_size * layout.context_parallel_size


def parked_weights(config: Config, actor: Mapping[str, int]) -> int:
    """What a parked actor keeps on the GPU."""
    kept = holders("rollout", keep_actor_weights=config.colocation.keep_actor_weights)
    return sum(actor[part] for part in kept.actor)


def static_bytes(config: Config, parked: int, gpu_bytes: int) -> int:
    """Weights and KV cache of a server: its share of what it finds free when its gate opens (SGLang 0.5.23,
    `KVCacheConfigurator._profile_available_bytes`)."""
    free = max(0, gpu_bytes - ACTOR_RUNTIME_BYTES - GATE_RUNTIME_BYTES - parked)
    return int(free * config.servers.sglang.get("mem_fraction_static", MEM_FRACTION_STATIC))


def kv_bytes_per_token(shape: ModelShape, server_tp: int, width: int) -> int:
    """On one GPU of a server."""
    return 2 * shape.num_layers * max(1, shape.num_kv_heads // server_tp) * shape.head_dim * width


def logprob_bytes(config: Config, shape: ModelShape, layout: ParallelLayout) -> int:
    """Three fp32 chunks of logits over this rank's slice of the vocabulary (`actor.token_logprobs`)."""
    rows = shape.padded_vocab_size(layout.tensor_parallel_size) // layout.tensor_parallel_size
    return 3 * _chunk_tokens(config, layout) * rows * 4


def output_gradient_bytes(
    config: Config, shape: ModelShape, layout: ParallelLayout, width: int
) -> int:
    """Of the output weight, before it is added to the gradient buffer: the fp32 sum over chunks and the chunk that is
    added to it; of a single chunk just that. And of the hidden states of a micro-batch's tokens."""
    rows = shape.padded_vocab_size(layout.tensor_parallel_size) // layout.tensor_parallel_size
    tokens = tokens_of_rank(config, layout)
    is_one_chunk = tokens <= config.actor.logprob_chunk_tokens
    of_weight = rows * shape.hidden_size * (width if is_one_chunk else 4 + width)
    return of_weight + tokens * shape.hidden_size * width


def tokens_of_rank(config: Config, layout: ParallelLayout) -> int:
    """Of a micro-batch; context parallelism cuts each sequence."""
    return -(-config.actor.max_tokens_per_microbatch // layout.context_parallel_size)


def _chunk_tokens(config: Config, layout: ParallelLayout) -> int:
    return min(config.actor.logprob_chunk_tokens, tokens_of_rank(config, layout))


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
    return tokens_of_rank(config, layout) * width * (kept + whole)


def publish_bytes(config: Config, layout: ParallelLayout) -> int:
    """Beside the weights, on a GPU that hands buckets over: one flat bucket is filled while a server reads the other.
    Over TP or PP it also holds what was gathered, and the tensors made of it (`actor.hf_export`,
    `weight_sync.shared_bucket`)."""
    is_whole = layout.tensor_parallel_size * layout.pipeline_parallel_size == 1
    return (2 if is_whole else 4) * config.weight_sync.bucket_bytes


def save_host_bytes(actor: Mapping[str, int], layout: ParallelLayout) -> int:
    """One copy of what this rank writes: its part of the optimizer, its share of the weights that its data-parallel
    peers hold too (context-parallel ones among them)."""
    return actor["weights"] // weight_peers(layout) + actor["optimizer"]
