"""A server that runs already (`servers.urls`): someone else started it and ends it.

Promises:
- nothing here starts, restarts or ends the server; when it is lost the run ends with a message that says whose it is;
- it is used only if it was started with the options that this run would have started it with;
- what it counted before this run is not held against the run (`counters_before`). One run at a time: the ledger finds
  out when someone else samples from it meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.sglang_launch import PROCESS_HEADER
from megatron_ar3po.servers.counters import read_counters
from megatron_ar3po.servers.server import parse_process
from megatron_ar3po.usage import ServerCounters

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_INFO_TIMEOUT_S = 30.0

# Options that do not change what a server samples, or that it rewrites at its start.
_FREE = {"host", "port", "log_level_http", "decode_log_interval", "skip_server_warmup"}


class ExternalServer:
    """In the place of a `SglangServer`. Used by the leader of its replica only."""

    num_restarts = 0

    def __init__(
        self,
        url: str,
        *,
        name: str,
        arguments: Mapping[str, Any],
        tensor_parallel_size: int,
        timeout_s: float,
    ) -> None:
        """`arguments`: of the server that this run would have started itself. `name`: unless it says its own."""
        self.url = url.rstrip("/")
        self.name = name
        self.tensor_parallel_size = tensor_parallel_size
        self.counters_before = ServerCounters()
        self._arguments = arguments
        self._timeout_s = timeout_s

    def wait_ready(self) -> float:
        """Until it takes requests; then its options are compared and its counters read."""
        started = time.monotonic()
        while not self.is_running():
            if time.monotonic() - started > self._timeout_s:
                raise RolloutEngineError(
                    f"servers.urls names {self.url}, but nothing there answered /ready within "
                    f"servers.start_timeout_s={self._timeout_s:g}; start the server first, or leave the option "
                    "empty: then the run starts its own."
                )
            time.sleep(_POLL_INTERVAL_S)
        self._check_arguments(self._info())
        self.counters_before = read_counters(self.url)
        return time.monotonic() - started

    def is_running(self) -> bool:
        try:
            response = request("GET", self.url + "/ready", timeout_s=_PROBE_TIMEOUT_S)
        except HttpError:  # not listening, or lost
            return False
        if process := parse_process(response.headers.get(PROCESS_HEADER, "")):
            self.name, self.num_restarts = process  # as its responses will state it
        return response.status == 200

    def restart(self) -> None:
        raise RolloutEngineError(f"server {self.name} was lost. {self.log_tail()}")

    def log_tail(self) -> str:
        return (
            f"This run did not start it (servers.urls={self.url}) and cannot restart it; look into the log of "
            "whoever did, start it anew, and go on with run.resume=true."
        )

    def kv_tokens(self) -> int:
        """What its KV cache holds, in tokens. Of a ready server."""
        return int(self._info()["max_total_num_tokens"])

    def _info(self) -> dict[str, Any]:
        try:
            return request("GET", self.url + "/server_info", timeout_s=_INFO_TIMEOUT_S).json()
        except (HttpError, ValueError) as error:
            raise RolloutEngineError(
                f"server {self.name} does not say what it is at /server_info ({error}). "
                f"{self.log_tail()}"
            ) from error

    def _check_arguments(self, stated: Mapping[str, Any]) -> None:
        differing = [
            f"{name} is {stated.get(name)!r} there and {wanted!r} here"
            for name, wanted in self._arguments.items()
            if name not in _FREE and stated.get(name) != wanted
        ]
        name = "enable_deterministic_inference"
        if stated.get(name) and not self._arguments.get(name):  # it is stated only where it is on
            differing.append(f"{name} is True there and False here")
        if differing:
            raise ValueError(
                f"servers.urls names {self.url}, which was started with other options than this run's: "
                f"{'; '.join(differing)}. Change the config, or start another server."
            )
