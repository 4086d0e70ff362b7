"""The Megatron actor, the way its weights take to the servers, and who holds accelerator memory when, from the start of
a run on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.colocation import (
    Colocation,
    ServersAlone,
    StartingColocation,
    TakingTurns,
)
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import (
    Ranks,
    end_process_group,
    start_process_group,
)
from megatron_ar3po.interfaces import Actor, WeightPublisher
from megatron_ar3po.observability.memory_log import MemoryLog
from megatron_ar3po.observability.timeline import Timeline
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.servers.control import ServerControl
from megatron_ar3po.wiring.no_op_actor import NoOpActor, NoOpPublisher
from megatron_ar3po.wiring.servers import (
    RunServer,
    replica_placements,
    server_control,
    shares_with_actor,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    actor: Actor
    publisher: WeightPublisher
    colocation: Colocation


def build_policy(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    servers: list[RunServer],
    start: StartingPoint,
    timeline: Timeline,
) -> Policy:
    """Collective: everything that takes accelerator memory, in this order. No server has any until the actor stands as
    of `start` and is parked; then they start. They are ready when this returns."""

    if ranks.layout.world_size == 1:  # several have met already
        start_process_group(config.run.collective_timeout_s)
        stack.callback(end_process_group)

    def forget(url: str) -> None:
        publisher.forget(url)

    control = server_control(config, servers, restarted=forget)
    colocation = build_colocation(config, ranks, control, timeline)
    with ranks.watch.phase("wait for servers"), timeline.span("wait_for_servers"):
        colocation.enter_start_phase()
    started = time.monotonic()
    with timeline.span("actor"):
        actor, publisher = build_actor(config, ranks, stack, servers, control)
        if start.checkpoint is not None:
            actor.load(start.checkpoint / "model")
            logger.info("loaded %s", start.checkpoint)
    if shares_with_actor(config):
        logger.info("actor: built and loaded in %.1f s", time.monotonic() - started)
    with ranks.watch.phase("wait for servers"), timeline.span("wait_for_servers"):
        colocation.admit_servers(actor)
    return Policy(actor=actor, publisher=publisher, colocation=colocation)


def build_colocation(
    config: Config, ranks: Ranks, control: ServerControl, timeline: Timeline
) -> StartingColocation:
    def on_leader(task: Callable[[], Any]) -> Any:
        """Once all ranks have come, so that what they were to let go of is free."""
        ranks.barrier()
        return ranks.run_on_leader(task)

    if not shares_with_actor(config):
        return ServersAlone(control, on_leader)
    return TakingTurns(
        control,
        on_leader,
        keep_actor_weights=config.colocation.keep_actor_weights,
        note=MemoryLog(config.run.path / "logs", ranks.layout.rank).note,
        span=timeline.span,
    )


def build_actor(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    servers: Sequence[RunServer],
    control: ServerControl,
) -> tuple[Actor, WeightPublisher]:
    """Collective: the Megatron actor and the way its weights take to the servers."""
    if not shares_with_actor(config):
        no_op = NoOpPublisher(ranks, control.set_weight_version)
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
