"""`GlobalRouter`: one `sglang-router` in front of all servers of a run (`servers.routing=global`), so that the hard
prompts of one replica use the idle servers of another. Leader of replica 0 starts it; `RouterControl` is for all.

The router tries nothing again: a second try is a new request with a new id, and that is the client's to send. It sees a
server only while the server holds the run's weights: `remove` before a restart, `add` after the publish. A router that
died is started anew on its port, in front of the servers that hold weights then. It asks servers for their model, which
they tell at any time, asleep or in the middle of a publish; whether they still generate is for the clients to find out.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.child_process import ChildProcess
from megatron_ar3po.servers.ports import HOST, reserve_port
from megatron_ar3po.servers.router_control import RouterControl

_START_LIMIT_S = 60.0
_CALL_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.1


def check_router_installed() -> None:
    """ValueError before anything starts."""
    if importlib.util.find_spec("sglang_router") is None:
        raise ValueError(
            "servers.routing=global needs sglang-router, which is not installed; run `pip install --no-deps -r "
            "requirements/nodeps.txt`, or set servers.routing=local."
        )


class GlobalRouter:
    def __init__(
        self,
        urls: Sequence[str],
        *,
        log_path: Path,
        request_timeout_s: float,
        host: str = HOST,
        max_restarts: int = 3,
    ) -> None:
        check_router_installed()
        self.num_restarts = 0
        self._max_restarts = max_restarts
        self._reservations = [reserve_port(0, host), reserve_port(0)]
        port, metrics_port = (held.getsockname()[1] for held in self._reservations)
        self.url = f"http://{host}:{port}"
        self._urls = list(urls)
        self._arguments: dict[str, Any] = {
            "host": host,
            "port": port,
            "prometheus_port": metrics_port,
            "prometheus_host": HOST,
            "policy": "cache_aware",  # a prompt's samples go where its prefix is, unless the load is uneven:
            "balance_abs_threshold": 4,  # by more requests than this, and
            "balance_rel_threshold": 1.1,  # by more than this factor; a server that came back has no prefixes at all
            "disable_retries": True,
            "disable_circuit_breaker": True,  # one that opens would refuse servers that live
            "health_check_endpoint": "/model_info",
            "health_check_interval_secs": 1,
            "health_failure_threshold": 1,
            "health_success_threshold": 1,
            "request_timeout_secs": int(request_timeout_s) + 1,  # the client's limit comes first
            "max_concurrent_requests": -1,  # the controllers bound what is in flight
            "log_level": "warn",
        }
        self._child = ChildProcess(
            "the router", "megatron_ar3po.servers.router_process", log_path=log_path
        )

    @property
    def process_group(self) -> int:
        return self._child.process_group

    def start(self) -> None:
        """Returns when every server is known and healthy."""
        self._start(self._urls)

    def restart(self) -> None:
        """On the same port, in front of the servers that hold weights now; one that is being revived is added by its
        owner."""
        self.stop()
        if self.num_restarts >= self._max_restarts:
            raise RolloutEngineError(
                f"the router was lost again after servers.max_server_restarts={self._max_restarts} restarts; raise it, "
                f"or mend what ends the router. {self._child.log_tail()}"
            )
        self.num_restarts += 1
        holding = [url for url in self._urls if holds_weights(url)]
        if not holding:
            raise RolloutEngineError(
                f"the router was lost and no server holds weights. {self._child.log_tail()}"
            )
        self._start(holding)

    def _start(self, urls: Sequence[str]) -> None:
        # The router would reach servers through a proxy of the environment; NO_PROXY=* does not stop it.
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self._child.start({**self._arguments, "worker_urls": list(urls)}, environment)
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._listens():
            if not self._child.is_running() or time.monotonic() > deadline:
                raise RolloutEngineError(
                    f"the router ended or did not listen within {_START_LIMIT_S:g} s. {self._child.log_tail()}"
                )
            time.sleep(_POLL_INTERVAL_S)
        RouterControl(self.url).wait_healthy(set(urls), _START_LIMIT_S)

    def _listens(self) -> bool:
        try:
            return request("GET", self.url + "/workers", timeout_s=_CALL_TIMEOUT_S).status == 200
        except HttpError:  # not yet
            return False

    def stop(self) -> None:
        """Harmless when it runs no more."""
        self._child.stop()


def holds_weights(url: str) -> bool:
    """Of a published version: one that was started anew, or takes an update now, states another than a number."""
    try:
        response = request("GET", url + "/model_info", timeout_s=_CALL_TIMEOUT_S)
        return response.status == 200 and str(response.json().get("weight_version")).isdigit()
    except (HttpError, ValueError):
        return False
