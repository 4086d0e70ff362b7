"""The router in front of all servers (`servers.routing=global`), and the revival of a server, which it must not see too
early."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.servers.node_address import node_address
from megatron_ar3po.servers.ports import HOST
from megatron_ar3po.servers.router import GlobalRouter, check_router_installed
from megatron_ar3po.servers.router_control import RouterControl
from megatron_ar3po.wiring.servers import RunServer, ranks_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAccess:
    url: str
    restart: Callable[[], None] | None  # on the rank that started it


def check_routing(config: Config) -> None:
    """Before anything starts."""
    if config.servers.routing == "global":
        check_router_installed()


def start_router(
    config: Config, ranks: Ranks, stack: ExitStack, servers: list[RunServer]
) -> RouterAccess | None:
    """Collective; None with `servers.routing=local`. The servers are ready."""
    if config.servers.routing == "local":
        return None
    per_replica = ranks.gather([server.url for server in servers])

    def start() -> GlobalRouter:
        router = GlobalRouter(
            [url for urls in per_replica for url in urls],
            log_path=config.run.path / "logs" / "router.log",
            request_timeout_s=config.servers.request_timeout_s,
            host=node_address() if ranks_per_node(ranks) < ranks.layout.world_size else HOST,
            max_restarts=config.servers.max_server_restarts,
        )
        stack.callback(router.stop)
        router.start()
        return router

    router = ranks.only_on_first(start)
    url = ranks.broadcast("" if router is None else router.url)
    return RouterAccess(url=url, restart=None if router is None else router.restart)


def revive(server: RunServer, ranks: Ranks, router: RouterControl | None = None) -> None:
    """A fresh process with the weights every other server of the replica has. The ranks of the replica help. A router
    must not see it before it holds them."""
    if router is not None:
        router.remove(server.url)
    server.restart()
    ranks.call_in_replica("republish", server.url)
    if router is not None:
        router.add(server.url)
