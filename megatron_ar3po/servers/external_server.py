"""A server that runs already (`servers.urls`): someone else started it and ends it.

Promises:
- nothing here starts, restarts or ends the server; when it is lost the run ends with a message that says whose it is;
- it is used only if it was started with the options that this run would have started it with;
- whatever state a trainer that died has left it in (`recovery`), it is brought back from there, and what was done is
  said in one line; unless that trainer lives: a server that this package started lends itself to one client at a time
  (`lease`). Another server does not say who uses it: one that has stood paused for twice as long as a call of a
  publish may last is taken for abandoned, and one that takes requests is left alone for as long as it has some;
- what it counted before this run is not held against the run (`counters_before`). One run at a time: the ledger finds
  out when someone else samples from it meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.sglang_launch import PROCESS_HEADER
from megatron_ar3po.servers.counters import read_counters
from megatron_ar3po.servers.lease import Lease, take_lease
from megatron_ar3po.servers.recovery import drain, load_weights, recover, wait_until_idle
from megatron_ar3po.servers.server import parse_process
from megatron_ar3po.servers.server_info import get_field
from megatron_ar3po.usage import ServerCounters

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_HEALTH_TIMEOUT_S = 30.0  # SGLang gives its own scheduler 20 s to answer
_INFO_TIMEOUT_S = 30.0
_REPORT_EVERY_S = 10.0
_FIRST_VERSION = "default"  # SGLang's, of the weights that a server was started with

# Options that do not change what a server samples, or that it rewrites at its start.
_FREE = {"host", "port", "log_level_http", "decode_log_interval", "skip_server_warmup"}


class ExternalServer:
    """In the place of a `SglangServer`. Used by the leader of its replica only."""

    num_restarts = 0
    is_at_gate = False

    def __init__(
        self,
        url: str,
        *,
        name: str,
        arguments: Mapping[str, Any],
        tensor_parallel_size: int,
        timeout_s: float,
        publish_timeout_s: float,
        client: str,
        publishes: bool = True,
        abandoned_after_s: float | None = None,
        report: Callable[[str], None] = logger.warning,
    ) -> None:
        """`arguments`: of the server that this run would have started itself. `name`: unless it says its own.
        `timeout_s`: as for the start of a server. `publish_timeout_s`: as for one call of a publish. `client`: who we
        are. `publishes`: whether the run gives it weights before it samples; otherwise it gets those that it was
        started with back. `abandoned_after_s`: for how long a paused server that lends no lease may be somebody's;
        None: twice `publish_timeout_s`."""
        self.url = url.rstrip("/")
        self.name = name
        self.tensor_parallel_size = tensor_parallel_size
        self.counters_before = ServerCounters()
        self._arguments = arguments
        self._timeout_s, self._publish_timeout_s = timeout_s, publish_timeout_s
        self._client, self._publishes = client, publishes
        self._abandoned_after_s = (
            2 * publish_timeout_s if abandoned_after_s is None else abandoned_after_s
        )
        self._report = report
        self._lease: Lease | None = None

    def wait_ready(self) -> float:
        """Until it takes requests and nobody else uses it; then its options are compared, it is brought back from where
        another trainer left it, and its counters are read."""
        started = time.monotonic()
        self._wait_until(self.is_running, started)
        self._lease = take_lease(self.url, self._client, answer_limit_s=self._timeout_s)
        state = None
        if self._lease is not None:
            state = self._lease.settled_state(limit_s=self._publish_timeout_s)
        is_left_behind = self._stays_paused() if state is None else state.is_left_behind
        last = "another client" if state is None else state.last_holder or "another client"
        if not is_left_behind:
            self._wait_until(self._takes_requests, started)
        self._check_arguments(self._info())
        done = recover(self.url, state) if is_left_behind else []
        # With a limit of its own: the watch over a paused one took long.
        self._wait_until(self._takes_requests, time.monotonic())
        if state is None and not is_left_behind:
            wait_until_idle(self.url)
        else:
            done += drain(self.url)
        if not self._publishes and self._version() != _FIRST_VERSION:
            load_weights(self.url, self._arguments["model_path"], limit_s=self._timeout_s)
            done.append("the weights that it was started with were loaded again")
        if done and not (state is not None and state.is_as_a_run_ends and len(done) == 1):
            self._report(
                f"server {self.name} at {self.url} was left behind by {last}: {', '.join(done)}."
            )
        self.counters_before = read_counters(self.url)
        return time.monotonic() - started

    def release(self) -> None:
        """Somebody else may use it."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _wait_until(self, is_true: Callable[[], bool], started: float) -> None:
        next_report = time.monotonic() + _REPORT_EVERY_S
        while not is_true():
            waited = time.monotonic() - started
            if waited > self._timeout_s:
                raise RolloutEngineError(
                    f"servers.urls names {self.url}, but nothing there answered /ready within "
                    f"servers.start_timeout_s={self._timeout_s:g}; start the server first, or leave the option "
                    "empty: then the run starts its own."
                )
            if time.monotonic() > next_report:
                next_report += _REPORT_EVERY_S
                self._report(
                    f"waiting for server {self.url}: {waited:.0f} s of at most {self._timeout_s:g} s"
                )
            time.sleep(_POLL_INTERVAL_S)

    def _stays_paused(self) -> bool:
        """Of a server that lends no lease."""
        started = time.monotonic()
        is_reported = False
        while not self._takes_requests():
            if time.monotonic() - started > self._abandoned_after_s:
                return True
            if not is_reported:
                is_reported = True
                self._report(
                    f"server {self.url} takes no requests: it starts, or somebody updates its weights. If that lasts "
                    f"for {self._abandoned_after_s:g} s, that client is taken for dead."
                )
            time.sleep(_POLL_INTERVAL_S)
        return False

    def _version(self) -> str:
        try:
            return str(get_field(self.url, "/model_info", "weight_version"))
        except (HttpError, ValueError) as error:
            raise RolloutEngineError(
                f"server {self.name} does not say which weights it holds ({error}). {self.log_tail()}"
            ) from error

    def is_running(self) -> bool:
        """It listens. One that calls itself unready is not lost: `_takes_requests`. What of a server that listens is
        dead is found by looks at its health (`ServerRepair`), as for servers of our own."""
        return self._readiness() is not None

    def _takes_requests(self) -> bool:
        """SGLang is unready while it starts or is paused, and from a look at its health that found it busy for 20 s, as
        with a long prefill, to the next look. So one that is unready is looked at."""
        status = self._readiness()
        if status is None or status == 200:
            return status == 200
        with suppress(HttpError):
            request("GET", self.url + "/health_generate", timeout_s=_HEALTH_TIMEOUT_S)
        return self._readiness() == 200

    def _readiness(self) -> int | None:
        """The status of /ready; None: nothing listens."""
        try:
            response = request("GET", self.url + "/ready", timeout_s=_PROBE_TIMEOUT_S)
        except HttpError:
            return None
        if process := parse_process(response.headers.get(PROCESS_HEADER, "")):
            self.name, self.num_restarts = process  # as its responses will state it
        return response.status

    def restart(self) -> None:
        raise RolloutEngineError(f"server {self.name} was lost. {self.log_tail()}")

    restart_behind_gate = restart

    def open_gate(self) -> None:
        """There is none."""

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
