"""What a replica's servers are told beside sampling and weights: sleep, wake, which version they hold, and who of them
must be started anew before the next publish. Leader only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from megatron_ar3po import http_client
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.server import Server

logger = logging.getLogger(__name__)

_INFO_LIMIT_S = 30.0


class RestartableServer(Server, Protocol):
    def restart(self) -> None: ...


class ServerControl:
    """`SleepingServers`. Sleep and wake are SGLang's `/release_memory_occupation` and `/resume_memory_occupation`. A
    server that died meanwhile has nothing to give back and is left out; `revive_lost` or the rollout brings it back."""

    def __init__(
        self,
        servers: Sequence[RestartableServer],
        *,
        timeout_s: float,
        restarted: Callable[[str], None] = lambda url: None,
    ) -> None:
        """`restarted(url)`: a new process answers there, which knows nothing of earlier publishes."""
        self._servers = servers
        self._timeout_s = timeout_s
        self._restarted = restarted

    def sleep(self, tags: Sequence[str]) -> None:
        """The KV cache must be empty first: SGLang refuses to release it under a running request."""
        self._post("/flush_cache", None)
        self._post("/release_memory_occupation", {"tags": list(tags)})

    def wake(self, tags: Sequence[str]) -> None:
        """Weights come back uninitialised: publish before sampling."""
        self._post("/resume_memory_occupation", {"tags": list(tags)})

    def set_weight_version(self, policy_version: int) -> None:
        """The servers' weights stay; their responses carry this version from now on."""
        self._post(
            "/update_weight_version",
            {"new_version": str(policy_version), "abort_all_requests": False},
        )

    def find_lost(self) -> list[str]:
        """Names of the servers that died, or hang, while nobody sampled from them."""
        return [server.name for server in self._servers if not self._lives(server)]

    def revive_lost(self, asleep: Sequence[str]) -> None:
        """Before a publish: fresh processes for `lost`, as far asleep as the others, without the run's weights."""
        for server in self._servers:
            if self._lives(server):
                continue
            logger.warning("server %s was lost between rollouts: restarting it", server.name)
            server.restart()
            self._restarted(server.url)
            if asleep:
                self._post_to(server, "/flush_cache", None)
                self._post_to(server, "/release_memory_occupation", {"tags": list(asleep)})

    def _lives(self, server: RestartableServer) -> bool:
        """Its scheduler answers; that needs no weights."""
        if not server.is_running():
            return False
        try:
            limit_s = min(_INFO_LIMIT_S, self._timeout_s)
            url = server.url + "/server_info"
            return http_client.request("GET", url, timeout_s=limit_s).status == 200
        except http_client.HttpError:  # hung, or dying
            return False

    def _post(self, path: str, body: dict[str, Any] | None) -> None:
        for server in self._servers:
            if server.is_running():
                self._post_to(server, path, body)

    def _post_to(self, server: RestartableServer, path: str, body: dict[str, Any] | None) -> None:
        try:
            response = http_client.request(
                "POST", server.url + path, json=body, timeout_s=self._timeout_s
            )
        except http_client.HttpError as error:
            raise RolloutEngineError(
                f"server {server.name} did not answer {path}: {error}. {server.log_tail()}"
            ) from error
        if response.status != 200:
            raise RolloutEngineError(
                f"server {server.name} refused {path} with HTTP {response.status}: {response.text[:300]}"
            )
