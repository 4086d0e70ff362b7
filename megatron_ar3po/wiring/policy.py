"""The Megatron actor, the way its weights take to the servers, and who holds GPU memory when."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from megatron_ar3po.colocation import ColocatedGpus, Colocation, SharedHostMemory
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Actor, WeightPublisher
from megatron_ar3po.wiring.no_op_actor import NoOpActor, NoOpPublisher
from megatron_ar3po.wiring.servers import RunServer, replica_placements, server_control


def build_policy(
    config: Config, ranks: Ranks, stack: ExitStack, servers: list[RunServer]
) -> tuple[Actor, WeightPublisher]:
    """Collective: the Megatron actor and the way its weights take to the servers."""
    if config.debug.mode == "rollout_only":
        no_op = NoOpPublisher(ranks, server_control(config, servers).set_weight_version)
        ranks.offer("republish", no_op.republish)
        return NoOpActor(), no_op
    from megatron_ar3po.actor.megatron_actor import MegatronActor  # slow to import
    from megatron_ar3po.weight_sync.publisher import ServerPublisher
    from megatron_ar3po.weight_sync.receiver import Receiver
    from megatron_ar3po.weight_sync.shared_bucket import import_sglang
    from megatron_ar3po.weight_sync.transport import make_transport

    actor = MegatronActor(config, ranks.layout)
    server_tp = servers[0].tensor_parallel_size if servers else 1
    beside = [placement.beside_ranks for placement in replica_placements(config, ranks)]
    if config.weight_sync.transport == "tensor" and any(ranks.layout.rank in b for b in beside):
        import_sglang(with_checksums=False)
    sync_folder = Path(config.weight_sync.disk_dir or config.run.path / "weight_sync")
    publisher = ServerPublisher(
        actor=actor,
        ranks=ranks,
        servers=lambda: [Receiver(s.url, r) for s, r in zip(servers, beside, strict=True)],
        config=config.weight_sync,
        server_tp=server_tp,
        transport=make_transport(
            config.weight_sync,
            ranks,
            server_tp=server_tp,
            model_path=Path(config.model.path),
            folder=sync_folder / f"dp{ranks.layout.dp_rank:02d}",
        ),
    )
    stack.callback(publisher.close)
    ranks.offer("republish", publisher.republish)
    return actor, publisher


def build_colocation(
    config: Config,
    ranks: Ranks,
    actor: Actor,
    publisher: WeightPublisher,
    servers: Sequence[RunServer],
) -> Colocation:
    control = server_control(config, servers, restarted=publisher.forget)
    if not torch.cuda.is_available():
        return SharedHostMemory(control, ranks.run_on_leader)
    return ColocatedGpus(actor, control, ranks.run_on_leader)
