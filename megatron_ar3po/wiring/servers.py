"""SGLang servers and the router before them: started, waited for, revived."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.rollout.attached_server import AttachedServer
from megatron_ar3po.rollout.ledger import ServerCounters
from megatron_ar3po.rollout.placement import server_places
from megatron_ar3po.rollout.ports import HOST
from megatron_ar3po.rollout.router import GlobalRouter, RouterControl, check_router_installed
from megatron_ar3po.rollout.server_arguments import server_arguments
from megatron_ar3po.rollout.server_control import ServerControl
from megatron_ar3po.rollout.sglang_server import ServerPlace, SglangServer

logger = logging.getLogger(__name__)


RunServer = SglangServer | AttachedServer  # ours, or someone else's


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAccess:
    url: str
    restart: Callable[[], None] | None  # on the rank that started it


def start_servers(config: Config, ranks: Ranks, stack: ExitStack) -> list[RunServer]:
    """Leaders start their replica's servers and return at once; the other ranks hold none. With `rollout.server_urls`
    nothing is started: they run already."""

    def started() -> int:
        places = server_places(
            ranks.layout,
            servers_per_replica=config.rollout.servers_per_replica,
            gpus=visible_gpus(),
            ranks_per_node=int(os.environ.get("LOCAL_WORLD_SIZE", ranks.layout.world_size)),
        )
        for place in places:
            if config.rollout.server_urls:
                servers.append(attached(config, place))
                continue
            server = SglangServer(
                config.rollout,
                place,
                model_path=config.model.path,
                dtype=config.model.dtype,
                log_dir=config.run.path / "logs",
            )
            server.start()
            stack.callback(server.stop)
            servers.append(server)
        return len(places)

    check_server_urls(config, ranks)
    servers: list[RunServer] = []
    ranks.run_on_leader(started)
    return servers


def attached(config: Config, place: ServerPlace) -> AttachedServer:
    arguments = server_arguments(
        config.rollout,
        model_path=config.model.path,
        dtype=config.model.dtype,
        port=0,
        tensor_parallel_size=place.tensor_parallel_size,
        on_gpu=torch.cuda.is_available(),
    )
    return AttachedServer(
        config.rollout.server_urls[place.number],
        name=place.name,
        arguments=arguments,
        tensor_parallel_size=place.tensor_parallel_size,
        timeout_s=config.rollout.server_start_timeout_s,
    )


def check_server_urls(config: Config, ranks: Ranks) -> None:
    urls = config.rollout.server_urls
    wanted = ranks.layout.data_parallel_size * config.rollout.servers_per_replica
    if urls and len(urls) != wanted:
        raise ValueError(
            f"rollout.server_urls names {len(urls)} server(s), but {ranks.layout.data_parallel_size} replica(s) with "
            f"rollout.servers_per_replica={config.rollout.servers_per_replica} use {wanted}; name each once, replica "
            "by replica."
        )


def counters_before(servers: Sequence[RunServer]) -> dict[str, ServerCounters]:
    """Of servers that ran before this run."""
    return {s.name: s.counters_before for s in servers if isinstance(s, AttachedServer)}


def visible_gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    stated = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return stated.split(",") if stated else [str(i) for i in range(torch.cuda.device_count())]


def wait_for(servers: Sequence[RunServer]) -> None:
    for server in servers:
        seconds = server.wait_ready()
        logger.info("server %s is ready at %s after %.0f s", server.name, server.url, seconds)


def server_control(
    config: Config,
    servers: Sequence[RunServer],
    restarted: Callable[[str], None] = lambda url: None,
) -> ServerControl:
    return ServerControl(servers, timeout_s=config.weight_sync.timeout_s, restarted=restarted)


def check_routing(config: Config, ranks: Ranks) -> None:
    """Before anything starts."""
    if config.rollout.routing == "local":
        return
    check_router_installed()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.layout.world_size))
    if local < ranks.layout.world_size:
        raise ValueError(
            f"rollout.routing=global puts one router in front of servers that listen on {HOST} only, but the run has "
            f"{ranks.layout.world_size} ranks of which {local} are on this node; use rollout.routing=local."
        )


def start_router(
    config: Config, ranks: Ranks, stack: ExitStack, servers: list[RunServer]
) -> RouterAccess | None:
    """Collective; None with `rollout.routing=local`. The servers are ready."""
    if config.rollout.routing == "local":
        return None
    restart: Callable[[], None] | None = None
    per_replica = ranks.gather([server.url for server in servers])

    def started() -> str:
        nonlocal restart
        router = GlobalRouter(
            [url for urls in per_replica for url in urls],
            log_path=config.run.path / "logs" / "router.log",
            request_timeout_s=config.rollout.request_timeout_s,
            max_restarts=config.rollout.max_server_restarts,
        )
        stack.callback(router.stop)
        router.start()
        restart = router.restart
        return router.url

    return RouterAccess(url=ranks.run_on_first(started), restart=restart)


def revive(server: RunServer, ranks: Ranks, router: RouterControl | None = None) -> None:
    """A fresh process with the weights every other server of the replica has. The ranks of the replica help. A router
    must not see it before it holds them."""
    if router is not None:
        router.remove(server.url)
    server.restart()
    ranks.call_in_replica("republish", server.url)
    if router is not None:
        router.add(server.url)
