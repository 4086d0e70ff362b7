"""The servers of an experiment: started once, used by one run after the other.

Each run publishes its own start weights, so nothing of the run before is left in them. Variants whose servers would be
started with the same options share one; a server that served a run that failed is not used again: requests of that run
may still be in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.platform.accelerator import has_gpu
from megatron_ar3po.servers.arguments import server_arguments
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.wiring.servers import make_server


class SharedServers:
    """What it started ends with `discard`, or with this process."""

    def __init__(
        self,
        log_dir: Path,
        *,
        report: Callable[[str], None] = lambda line: None,
        make: Callable[[Config, ServerPlacement, Path], SglangServer] = make_server,
    ) -> None:
        self._log_dir = log_dir
        self._report = report
        self._make = make
        self._running: dict[str, list[SglangServer]] = {}  # by the options they were started with

    def words_for(self, config: Config) -> list[str]:
        """Of a run of one replica: the option that names its servers, which are ready."""
        key = _options(config)
        servers = self._running.get(key, [])
        if not servers or not all(server.is_running() for server in servers):
            self.discard()  # few machines have room for two sets
            servers = self._running[key] = self._start(config)
        return [f"servers.urls=[{','.join(server.url for server in servers)}]"]

    def are_running(self) -> bool:
        return all(server.is_running() for servers in self._running.values() for server in servers)

    def discard(self) -> None:
        for servers in self._running.values():
            for server in servers:
                server.stop()
        self._running.clear()

    def _start(self, config: Config) -> list[SglangServer]:
        servers = [
            self._make(config, ServerPlacement(name=f"dp0.s{number}", number=number), self._log_dir)
            for number in range(config.servers.servers_per_replica)
        ]
        try:
            for server in servers:
                server.start()
            for server in servers:
                self._report(f"{server.name} ready after {server.wait_ready():.0f} s")
        except BaseException:  # nothing that was started outlives its failure or an interrupt
            for server in servers:
                server.stop()
            raise
        return servers


def _options(config: Config) -> str:
    arguments = server_arguments(
        config.servers,
        model_path=config.model.path,
        dtype=config.model.dtype,
        port=config.servers.port,
        tensor_parallel_size=1,
        is_deterministic=config.run.deterministic,
        on_gpu=has_gpu(),
    )
    return json.dumps([config.servers.servers_per_replica, arguments], sort_keys=True)
