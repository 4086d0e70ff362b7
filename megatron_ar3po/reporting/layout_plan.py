"""A layout of a config on a cluster, what speaks against it, and the nearest one that fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import check_replicas
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import ModelShape
from megatron_ar3po.reporting.memory_estimate import (
    GIB,
    MemoryEstimate,
    estimate_memory,
    server_gpus,
)
from megatron_ar3po.wiring.layout_checks import check_placement, layout_of_job

MAX_NODES_SEARCHED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    num_nodes: int
    gpus_per_node: int
    gpu_bytes: int

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.gpus_per_node

    def __str__(self) -> str:
        return f"{self.num_nodes} x {self.gpus_per_node} GPUs of {self.gpu_bytes / GIB:.0f} GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A layout of a config on a cluster. `problems` is empty when it can run."""

    config: Config
    shape: ModelShape
    cluster: Cluster
    layout: ParallelLayout
    memory: MemoryEstimate
    problems: tuple[str, ...]


def make_plan(config: Config, shape: ModelShape, cluster: Cluster) -> Plan:
    """Raises ValueError when TP x PP does not even divide the world or the model."""
    layout = layout_of_job(config, world_size=cluster.world_size)
    shape.check_layout(layout)
    memory = estimate_memory(
        config, shape, layout, gpus_per_node=cluster.gpus_per_node, gpu_bytes=cluster.gpu_bytes
    )
    problems = (
        *_memory_problems(config, memory, cluster),
        *_placement_problems(config, shape, layout, cluster),
    )
    return Plan(
        config=config, shape=shape, cluster=cluster, layout=layout, memory=memory, problems=problems
    )


def _memory_problems(config: Config, memory: MemoryEstimate, cluster: Cluster) -> Iterator[str]:
    for phase in memory.over(cluster.gpu_bytes):
        largest = max(phase.parts, key=lambda name: phase.parts[name])
        yield (
            f"the {phase.phase} phase needs {phase.total_bytes / GIB:.1f} GiB a GPU, of {cluster.gpu_bytes / GIB:.0f}; "
            f"most of it {largest}, {phase.parts[largest] / GIB:.1f} GiB."
        )
    longest = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    if memory.kv_tokens < longest:
        yield (
            f"the server's KV cache holds {memory.kv_tokens} tokens, less than one sequence of {longest} "
            "(data.max_prompt_tokens + rollout.max_response_tokens)."
        )


def _placement_problems(
    config: Config, shape: ModelShape, layout: ParallelLayout, cluster: Cluster
) -> Iterator[str]:
    """The first rule of the trainer's that does not hold."""
    try:
        check_placement(
            config, layout, ranks_per_node=cluster.gpus_per_node, has_gpus=True, shape=shape
        )
        check_replicas(config, layout)
    except ValueError as error:
        yield str(error)


def idle_gpus_in_rollout(plan: Plan) -> int:
    """GPUs without a server: a replica's stages on other nodes than its leader's."""
    per_server = server_gpus(plan.config, plan.layout, plan.cluster.gpus_per_node)
    used = per_server * plan.config.servers.servers_per_replica
    return (plan.layout.replica_size - used) * plan.layout.data_parallel_size


def nearest_plan_that_fits(plan: Plan) -> Plan | None:
    """The fewest doublings of TP, PP and nodes away from `plan`; among equals the smallest replica, and of those the
    fewest stages. More nodes count double, so that the machines at hand come first; so do GPUs that would idle during
    rollouts."""
    found: list[tuple[float, int, int, Plan]] = []
    asked = plan.config.actor
    nodes = plan.cluster.num_nodes
    while nodes <= max(MAX_NODES_SEARCHED, plan.cluster.num_nodes):
        cluster = replace(plan.cluster, num_nodes=nodes)
        for candidate in _candidates(plan, cluster):
            actor = candidate.config.actor
            distance = (
                abs(math.log2(actor.tensor_parallel_size / asked.tensor_parallel_size))
                + abs(math.log2(actor.pipeline_parallel_size / asked.pipeline_parallel_size))
                + 2 * math.log2(nodes / plan.cluster.num_nodes)
                + 2 * (idle_gpus_in_rollout(candidate) > 0)
            )
            found.append((distance, actor.replica_size, actor.pipeline_parallel_size, candidate))
        nodes *= 2
    return min(found, key=lambda entry: entry[:3])[3] if found else None


def _candidates(plan: Plan, cluster: Cluster) -> Iterator[Plan]:
    shape, gpus = plan.shape, cluster.gpus_per_node
    for tp in (n for n in range(1, gpus + 1) if shape.fits_tensor_parallel(n)):
        for pp in (n for n in range(1, shape.num_layers + 1) if shape.num_layers % n == 0):
            if cluster.world_size % (tp * pp * plan.layout.context_parallel_size):
                continue
            actor = replace(
                plan.config.actor,
                tensor_parallel_size=tp,
                pipeline_parallel_size=pp,
                sequence_parallel=plan.config.actor.sequence_parallel and tp > 1,
            )
            candidate = make_plan(replace(plan.config, actor=actor), shape, cluster)
            if not candidate.problems:
                yield candidate


def refusal(plan: Plan) -> str:
    """Why it does not fit, and the nearest layout that does."""
    words = " ".join(plan.problems)
    nearest = nearest_plan_that_fits(plan)
    if nearest is None:
        return (
            f"{words} No layout fits on up to {max(MAX_NODES_SEARCHED, plan.cluster.num_nodes)} nodes; lower "
            "actor.max_tokens_per_microbatch, set actor.recompute=full, or use GPUs with more memory."
        )
    actor = nearest.config.actor
    where = "" if nearest.cluster == plan.cluster else f" --nodes {nearest.cluster.num_nodes}"
    return (
        f"{words} The nearest layout that fits is {nearest.layout.describe()} on {nearest.cluster}:{where} "
        f"actor.tensor_parallel_size={actor.tensor_parallel_size} "
        f"actor.pipeline_parallel_size={actor.pipeline_parallel_size}"
    )
