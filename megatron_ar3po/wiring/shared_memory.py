"""Whether this node has room for what a run keeps in shared memory, asked before anything starts on it."""

from __future__ import annotations

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.platform.accelerator import has_gpu
from megatron_ar3po.platform.host_limits import find_missing_shared_memory

_SERVER_BYTES = 64 * 1024  # SGLang's counters, semaphores


def check_shared_memory(
    config: Config, ranks: Ranks, *, num_leaders: int = 1, publishes: bool = True
) -> None:
    """Collective. Raises ValueError, on every rank, where any node has too little. `num_leaders`: replicas whose leader
    is on this node."""
    problem = shared_memory_problem(
        config,
        on_gpu=has_gpu(),
        num_leaders=max(1, num_leaders),
        publishes=publishes and config.debug.mode == "full",
    )
    ranks.agree_on_error(ValueError(problem) if problem else None)


def shared_memory_problem(
    config: Config, *, on_gpu: bool, num_leaders: int = 1, publishes: bool = True
) -> str:
    """A sentence, or "" where there is room."""
    servers = config.servers
    num_bytes = 0 if servers.urls else num_leaders * servers.servers_per_replica * _SERVER_BYTES
    what, hint = "servers take", ""
    if publishes and not on_gpu and config.weight_sync.transport == "tensor":
        num_bytes += num_leaders * bytes_of_buckets(config)
        what = "servers, and weights on their way to them (weight_sync.transport=tensor), take"
        hint = ", or set weight_sync.transport=disk"
    missing = find_missing_shared_memory(num_bytes) if num_bytes else ""
    if not missing:
        return ""
    return (
        f"{missing}, but {what} {num_bytes / 2**20:,.1f} MiB of shared memory; empty it, give it more (--shm-size of a "
        f"container, mount -o remount,size=){hint}."
    )


def bytes_of_buckets(config: Config) -> int:
    """Of the two buffers through which a replica's weights go to its servers on a machine without GPUs. A tensor that
    is larger than a bucket makes a larger one."""
    shape = read_policy_shape(config.model.path)
    of_weight = 4 if config.model.dtype == "float32" else 2
    largest = max(config.weight_sync.bucket_bytes, shape.embedding_parameters * of_weight)
    return 2 * min(shape.num_parameters * of_weight, largest)
