"""Where each server of a replica sits: on which node, on which GPUs. Plain Python; a server never spans nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.servers.ports import HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlacement:
    """Where one server of a run sits."""

    name: str  # "dp0.s0": names the log file and the ledger's rows
    number: int = 0  # over the run, from 0: a configured port is counted up by it
    node: int = 0
    host: str = HOST  # the address it listens on
    # As in CUDA_VISIBLE_DEVICES; empty: no GPU, or all that are visible.
    gpu_ids: tuple[str, ...] = ()
    tensor_parallel_size: int = 1
    # Of the run: beside which rank each of its tensor-parallel ranks sits, on the same GPU where there are GPUs.
    beside_ranks: tuple[int, ...] = (0,)

    @property
    def log_name(self) -> str:
        return f"sglang_{self.name}.log"


def server_placements(
    layout: ParallelLayout, *, servers_per_replica: int, gpus: Sequence[str], ranks_per_node: int
) -> list[ServerPlacement]:
    """All servers of this rank's replica. `gpus`: ids of a node's GPUs by local rank, the same on every node; empty on
    machines without GPUs.

    The replica's GPUs on a node are shared out evenly: TP=4 with two servers gives (0, 1) and (2, 3). A replica of
    several nodes has servers on each, as many here as there; with fewer servers than nodes, on the first ones."""
    dp = layout.dp_rank
    by_node: dict[int, list[int]] = {}
    for rank in layout.replica_ranks(dp):
        by_node.setdefault(rank // ranks_per_node, []).append(rank % ranks_per_node)
    nodes = list(by_node)[:servers_per_replica]
    if servers_per_replica % len(nodes):
        raise ValueError(
            f"servers.servers_per_replica={servers_per_replica} cannot be shared out evenly over the {len(nodes)} "
            f"nodes of replica {dp}; use a multiple of {len(nodes)}."
        )
    per_node = servers_per_replica // len(nodes)
    placements = []
    for node in nodes:
        local = by_node[node]
        if gpus and len(local) % per_node:
            raise ValueError(
                f"servers.servers_per_replica={servers_per_replica} puts {per_node} servers on node {node}, which does "
                f"not divide the {len(local)} GPUs of replica {dp} there; use a divisor for each node."
            )
        share = max(1, len(local) // per_node)
        for index in range(per_node):
            mine = local[index * share : (index + 1) * share]
            if not gpus:  # it may share a rank with others: all memory is the machine's
                mine = [local[index * len(local) // per_node]]
            number = len(placements)
            placements.append(
                ServerPlacement(
                    name=f"dp{dp}.s{number}",
                    number=dp * servers_per_replica + number,
                    node=node,
                    gpu_ids=tuple(gpus[r] for r in mine) if gpus else (),
                    tensor_parallel_size=len(mine),
                    beside_ranks=tuple(node * ranks_per_node + r for r in mine),
                )
            )
    return placements


def is_first_of_replica_here(layout: ParallelLayout, ranks_per_node: int) -> bool:
    """Whether this rank starts its replica's servers on its node."""
    node = layout.rank // ranks_per_node
    here = [r for r in layout.replica_ranks(layout.dp_rank) if r // ranks_per_node == node]
    return layout.rank == min(here)
