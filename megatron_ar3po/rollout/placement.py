"""Which GPUs each server of a replica sits on. Plain Python; a server never spans nodes."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rollout.sglang_server import ServerPlace


def server_places(
    layout: ParallelLayout, *, servers_per_replica: int, gpus: Sequence[str], ranks_per_node: int
) -> list[ServerPlace]:
    """The servers of this rank's replica that its leader starts. `gpus`: ids of this node's GPUs by local rank; empty
    on a machine without GPUs.

    The replica's GPUs on the leader's node are shared out evenly: TP=4 with two servers gives (0, 1) and (2, 3)."""
    dp = layout.dp_rank
    node = layout.leader_rank(dp) // ranks_per_node
    local = [
        rank % ranks_per_node for rank in layout.replica_ranks(dp) if rank // ranks_per_node == node
    ]
    if gpus and len(local) % servers_per_replica:
        raise ValueError(
            f"rollout.servers_per_replica={servers_per_replica} does not divide the {len(local)} GPUs of replica {dp} "
            "on its leader's node; use a divisor."
        )
    share = max(1, len(local) // servers_per_replica)
    return [
        ServerPlace(
            name=f"dp{dp}.s{i}",
            number=dp * servers_per_replica + i,
            gpu_ids=tuple(gpus[r] for r in local[i * share : (i + 1) * share]) if gpus else (),
            tensor_parallel_size=share if gpus else 1,
        )
        for i in range(servers_per_replica)
    ]
