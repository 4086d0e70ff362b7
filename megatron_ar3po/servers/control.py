"""What a replica's servers are told beside sampling and weights: sleep, wake, which version they hold, who of them is
started anew, and when one that starts may take memory. Leader only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from megatron_ar3po import http_client
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.server import Server

logger = logging.getLogger(__name__)

_INFO_LIMIT_S = 30.0
_IDLE_LIMIT_S = 60.0  # for a request that was aborted to leave its batch


class StartedServer(Server, Protocol):
    @property
    def is_at_gate(self) -> bool: ...

    def wait_ready(self) -> float: ...

    def restart_behind_gate(self) -> None: ...

    def open_gate(self) -> None: ...


class ServerControl:
    """`SleepingServers`. Sleep and wake are SGLang's `/release_memory_occupation` and `/resume_memory_occupation`. A
    server that died meanwhile, or waits at its gate, has nothing to give back and is left out; `restart_lost` and
    `admit`, or the rollout, bring it back."""

    def __init__(
        self,
        servers: Sequence[StartedServer],
        *,
        timeout_s: float,
        restarted: Callable[[str], None] = lambda url: None,
    ) -> None:
        """`restarted(url)`: a new process answers there, which knows nothing of earlier publishes."""
        self._servers = servers
        self._timeout_s = timeout_s
        self._restarted = restarted

    @property
    def names(self) -> list[str]:
        return [server.name for server in self._servers]

    @property
    def at_gates(self) -> list[str]:
        return [server.name for server in self._servers if server.is_at_gate]

    def hold_back(self, tags: Sequence[str]) -> None:
        running = [server for server in self._servers if not server.is_at_gate]
        for server in running:
            server.wait_ready()
        if running and tags:
            self.sleep(tags)

    def sleep(self, tags: Sequence[str]) -> None:
        for server in self._awake():
            self._put_to_sleep(server, tags)

    def wake(self, tags: Sequence[str]) -> None:
        """Weights come back uninitialised: publish before sampling."""
        for server in self._awake():
            self._post_to(server, "/resume_memory_occupation", {"tags": list(tags)})

    def set_weight_version(self, policy_version: int) -> None:
        """The servers' weights stay; their responses carry this version from now on."""
        version = {"new_version": str(policy_version), "abort_all_requests": False}
        for server in self._awake():
            self._post_to(server, "/update_weight_version", version)

    def restart_lost(self) -> list[str]:
        lost = [s for s in self._servers if not s.is_at_gate and not self._lives(s)]
        for server in lost:
            logger.warning("server %s was lost between rollouts: restarting it", server.name)
            server.restart_behind_gate()
            self._restarted(server.url)
        return [server.name for server in lost]

    def admit(self, asleep: Sequence[str]) -> None:
        """All gates first: they load at the same time."""
        waiting = [server for server in self._servers if server.is_at_gate]
        for server in waiting:
            server.open_gate()
        for server in waiting:
            seconds = server.wait_ready()
            logger.info("server %s is ready at %s after %.0f s", server.name, server.url, seconds)
            if asleep:
                self._put_to_sleep(server, asleep)

    def _put_to_sleep(self, server: StartedServer, tags: Sequence[str]) -> None:
        """The KV cache must be empty first: SGLang refuses to release it under a request, and a request that was
        aborted is one until its batch is done."""
        limit_s = min(_IDLE_LIMIT_S, self._timeout_s / 2)
        self._post_to(server, f"/flush_cache?timeout={limit_s:g}", None)
        self._post_to(server, "/release_memory_occupation", {"tags": list(tags)})

    def _awake(self) -> list[StartedServer]:
        return [s for s in self._servers if not s.is_at_gate and s.is_running()]

    def _lives(self, server: StartedServer) -> bool:
        """Its scheduler answers, be it that it is not idle (400). An empty cache is emptied: no call of SGLang that
        asks the scheduler costs less, and `/server_info` takes five times as long."""
        if not server.is_running():
            return False
        try:
            limit_s = min(_INFO_LIMIT_S, self._timeout_s)
            url = server.url + "/flush_cache"
            return http_client.request("POST", url, timeout_s=limit_s).status in (200, 400)
        except http_client.HttpError:  # hung, or dying
            return False

    def _post_to(self, server: StartedServer, path: str, body: dict[str, Any] | None) -> None:
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
