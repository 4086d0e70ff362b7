"""The SGLang servers of each replica: started on their nodes, waited for, controlled."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.platform.accelerator import has_gpu
from megatron_ar3po.servers.arguments import server_arguments
from megatron_ar3po.servers.control import ServerControl
from megatron_ar3po.servers.external_server import ExternalServer
from megatron_ar3po.servers.node_address import node_address
from megatron_ar3po.servers.placement import (
    ServerPlacement,
    is_first_of_replica_here,
    server_placements,
)
from megatron_ar3po.servers.remote_server import RemoteServer
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.servers.time_limits import time_limits
from megatron_ar3po.usage import ServerCounters

logger = logging.getLogger(__name__)


RunServer = SglangServer | ExternalServer | RemoteServer  # ours, someone else's, or another node's


def begin_server(
    config: Config, layout: ParallelLayout, stack: ExitStack, *, on_gpu: bool | None = None
) -> SglangServer | None:
    """The server of a run that has one, and no GPU: it imports, the longest part of such a start, while the run is
    still being checked. What refuses the run ends the server, which has written nothing. None for other runs.
    `on_gpu`: None asks this machine."""
    alone = layout.world_size == config.servers.servers_per_replica == 1
    if not alone or config.servers.urls or config.debug.mode == "train_only":
        return None
    if has_gpu() if on_gpu is None else on_gpu:
        return None
    [placement] = server_placements(layout, servers_per_replica=1, gpus=[], ranks_per_node=1)
    server = make_server(config, placement, config.run.path / "logs", owner=client_name(config))
    stack.callback(server.stop)
    server.begin()
    return server


def start_servers(
    config: Config, ranks: Ranks, stack: ExitStack, *, begun: SglangServer | None = None
) -> list[RunServer]:
    """Collective. The servers of a leader's replica, on all of its nodes; other ranks hold none. The first rank of a
    replica on each node starts those of the node, and returns at once; they wait at their gates where there is an
    actor. With `servers.urls` nothing is started: they run already. `begun`: by `begin_server`, the one of this run."""
    placements = replica_placements(config, ranks)
    check_transport(config, placements)
    if config.servers.urls:
        external = [external_server(config, p) for p in placements] if ranks.is_leader else []
        for server in external:
            stack.callback(server.release)
        return list(external)
    own: dict[str, SglangServer] = {}
    error = None
    try:
        start_own(config, ranks, stack, placements, own, begun)
    except Exception as raised:  # it must reach every rank before it travels on
        error = raised
    ranks.agree_on_error(error)
    offer_own(ranks, own)
    urls = {
        name: url
        for part in ranks.gather({s.name: s.url for s in own.values()})
        for name, url in part.items()
    }
    if not ranks.is_leader:
        return []
    return [
        own.get(placement.name) or remote_server(config, ranks, placement, urls[placement.name])
        for placement in placements
    ]


def replica_placements(config: Config, ranks: Ranks) -> list[ServerPlacement]:
    """Of this rank's replica, in the order of its servers."""
    return server_placements(
        ranks.layout,
        servers_per_replica=config.servers.servers_per_replica,
        gpus=visible_gpus(),
        ranks_per_node=ranks_per_node(ranks),
    )


def start_own(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    placements: Sequence[ServerPlacement],
    own: dict[str, SglangServer],
    begun: SglangServer | None = None,
) -> None:
    """Those of `placements` that this rank owns: it is the first of its replica on their node. `begun` is the only
    one."""
    per_node, log_dir = ranks_per_node(ranks), config.run.path / "logs"
    if not is_first_of_replica_here(ranks.layout, per_node):
        return
    is_reached_from_elsewhere = per_node < ranks.layout.world_size and (
        config.servers.routing == "global" or len({placement.node for placement in placements}) > 1
    )
    for placement in placements:
        if placement.node != ranks.layout.rank // per_node:
            continue
        if is_reached_from_elsewhere:
            placement = replace(placement, host=node_address())
        server = begun or make_server(config, placement, log_dir, owner=client_name(config))
        server.start(behind_gate=shares_with_actor(config))
        stack.callback(server.stop)
        logger.info(
            "server %s starts; it writes to %s", placement.name, log_dir / placement.log_name
        )
        own[placement.name] = server


def make_server(
    config: Config, placement: ServerPlacement, log_dir: Path, *, owner: str = ""
) -> SglangServer:
    """`owner`: whose it is alone; empty: other runs may attach to it, one at a time."""
    return SglangServer(
        config.servers,
        placement,
        model_path=config.model.path,
        dtype=config.model.dtype,
        is_deterministic=config.run.deterministic,
        log_dir=log_dir,
        owner=owner,
    )


def offer_own(ranks: Ranks, own: Mapping[str, SglangServer]) -> None:
    """What a leader may ask of the rank that started a server on another node."""

    def wait_server(name: str) -> None:
        if name in own:
            own[name].wait_ready()

    def restart_server(name: str) -> None:
        if name in own:
            own[name].restart()

    def restart_behind_gate(name: str) -> None:
        if name in own:
            own[name].restart_behind_gate()

    def open_gate(name: str) -> None:
        if name in own:
            own[name].open_gate()

    for service in (wait_server, restart_server, restart_behind_gate, open_gate):
        ranks.offer(service.__name__, service)


def shares_with_actor(config: Config) -> bool:
    """Whether there is an actor whose memory the servers have to wait for."""
    return config.debug.mode != "rollout_only"


def remote_server(
    config: Config, ranks: Ranks, placement: ServerPlacement, url: str
) -> RemoteServer:
    return RemoteServer(
        name=placement.name,
        url=url,
        tensor_parallel_size=placement.tensor_parallel_size,
        log_path=config.run.path / "logs" / placement.log_name,
        ask=ranks.call_in_replica,
        is_at_gate=shares_with_actor(config),
    )


def ranks_per_node(ranks: Ranks) -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks.layout.world_size))


def check_transport(config: Config, placements: Sequence[ServerPlacement]) -> None:
    nodes = sorted({placement.node for placement in placements})
    if len(nodes) > 1 and config.weight_sync.transport == "tensor" and config.debug.mode == "full":
        raise ValueError(
            f"weight_sync.transport=tensor hands over memory of one machine, but the servers of a replica are on nodes "
            f"{nodes} (servers.servers_per_replica={config.servers.servers_per_replica}); set "
            "weight_sync.transport=disk (a folder that all nodes see) or, without colocated GPUs, distributed; or "
            "servers.servers_per_replica=1: then only the leader's node samples."
        )


def external_server(config: Config, placement: ServerPlacement) -> ExternalServer:
    arguments = server_arguments(
        config.servers,
        model_path=config.model.path,
        dtype=config.model.dtype,
        port=0,
        tensor_parallel_size=placement.tensor_parallel_size,
        is_deterministic=config.run.deterministic,
        on_gpu=has_gpu(),
    )
    return ExternalServer(
        config.servers.urls[placement.number],
        name=placement.name,
        arguments=arguments,
        tensor_parallel_size=placement.tensor_parallel_size,
        timeout_s=time_limits(config.servers).start_s,
        publish_timeout_s=config.weight_sync.timeout_s,
        client=client_name(config),
        publishes=config.debug.mode != "rollout_only",
    )


def client_name(config: Config) -> str:
    """For another run that is refused a server."""
    return f"process {os.getpid()} on {socket.gethostname()}, run {config.run.path}"


def counters_before(servers: Sequence[RunServer]) -> dict[str, ServerCounters]:
    """What the processes that run now had counted before the first request of this run."""
    return {server.name: server.counters_before for server in servers}


def visible_gpus() -> list[str]:
    if not has_gpu():
        return []
    import torch  # not without a GPU: the servers start before it is needed

    count = torch.cuda.device_count()
    stated = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    # CUDA reads them up to the first that names no GPU.
    return stated[:count] if any(stated) else [str(i) for i in range(count)]


def wait_until_ready(servers: Sequence[RunServer]) -> None:
    for server in servers:
        seconds = server.wait_ready()
        logger.info("server %s is ready at %s after %.0f s", server.name, server.url, seconds)


def server_control(
    config: Config,
    servers: Sequence[RunServer],
    restarted: Callable[[str], None] = lambda url: None,
) -> ServerControl:
    return ServerControl(servers, timeout_s=config.weight_sync.timeout_s, restarted=restarted)
