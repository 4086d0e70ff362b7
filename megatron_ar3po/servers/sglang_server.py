"""The SGLang server process of a replica: start, wait, restart, stop.

Promises:
- `start` returns at once, so that the trainer can build its model meanwhile; behind a closed gate the server imports
  and takes no memory until `open_gate`; `begin` starts with the imports before, and writes nothing;
- `open_gate` and `wait_ready` each wait at most the configured time, say every few seconds that they wait, and fail
  with the server's last log lines when the server dies;
- the process and everything it started end with `stop`, and with the trainer (`ChildProcess`);
- a port in use is a `ValueError` before anything is started.

Publishing weights to the server and sampling from it are left to others: they speak HTTP to `url`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.accelerator import has_gpu
from megatron_ar3po.platform.sglang_launch import OWNER_VARIABLE, PROCESS_VARIABLE
from megatron_ar3po.servers.arguments import server_arguments
from megatron_ar3po.servers.child_process import ChildProcess
from megatron_ar3po.servers.counters import read_counters
from megatron_ar3po.servers.environment import server_environment
from megatron_ar3po.servers.gate import Gate
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.ports import reserve_port
from megatron_ar3po.servers.server_info import get_field
from megatron_ar3po.servers.time_limits import time_limits
from megatron_ar3po.usage import ServerCounters

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0


class SglangServer:
    """One server. Used by the leader of its replica only."""

    def __init__(
        self,
        config: ServersConfig,
        placement: ServerPlacement,
        *,
        model_path: str,
        dtype: str,
        is_deterministic: bool,
        log_dir: Path,
        owner: str = "",
        interpreter: str | Path = sys.executable,
        stop_grace_s: float = 5.0,
    ) -> None:
        """`owner`: the one client that it is for, as another one is told that is refused it; empty: it lends itself to
        one after the other. `interpreter`: the Python that runs the server. `stop_grace_s`: from `stop` until it is
        killed."""
        self.name = placement.name
        self.num_restarts = 0
        self.counters_before = ServerCounters()  # of the running process: what its warm-up counted
        self._config, self._owner = config, owner
        self._limit_s = time_limits(config).start_s
        self._placement = placement
        self._reservation = reserve_port(
            config.port + placement.number if config.port else 0, placement.host
        )
        self.port: int = self._reservation.getsockname()[1]
        self._arguments = server_arguments(
            config,
            model_path=model_path,
            dtype=dtype,
            host=placement.host,
            port=self.port,
            tensor_parallel_size=placement.tensor_parallel_size,
            is_deterministic=is_deterministic,
            on_gpu=has_gpu(),
        )
        self._gate = Gate(placement.host)
        self._child = ChildProcess(
            f"server {placement.name}",
            "megatron_ar3po.platform.sglang_launch",
            log_path=log_dir / placement.log_name,
            interpreter=interpreter,
            stop_grace_s=stop_grace_s,
        )
        self._started_at = self._waited_for_since = 0.0

    @property
    def tensor_parallel_size(self) -> int:
        return self._placement.tensor_parallel_size

    @property
    def url(self) -> str:
        return f"http://{self._placement.host}:{self.port}"

    @property
    def process_group(self) -> int:
        """Of the running server; its launcher's pid too."""
        return self._child.process_group

    @property
    def log_path(self) -> Path:
        return self._child.log_path

    @property
    def is_at_gate(self) -> bool:
        """It runs, or dies, before a closed gate."""
        return self._gate.is_closed

    def begin(self) -> None:
        """Its imports, before it is certain that there will be a run. `start` follows, or `stop`. Without a GPU: where
        there is one, the environment in which it imports is that in which it starts."""
        self._child.begin(self._arguments, self._environment())

    def start(self, *, behind_gate: bool = False) -> None:
        """Returns at once; the server loads in the background. `behind_gate`: it waits for `open_gate` before it
        allocates."""
        arguments = self._arguments
        self._gate.is_closed = behind_gate
        if behind_gate:
            arguments = {**arguments, "gated_launch_port": self._gate.port}
        self._child.start(arguments, self._environment())
        self._started_at = self._waited_for_since = time.monotonic()

    def _environment(self) -> dict[str, str]:
        environment = server_environment(os.environ, self._placement.gpu_ids)
        environment[PROCESS_VARIABLE] = f"{self.name}/{self.num_restarts}"
        environment[OWNER_VARIABLE] = self._owner
        return environment

    def open_gate(self) -> None:
        """Lets it allocate: whoever shares its accelerators has let go. Returns when it has heard, once its imports
        are done. Harmless for one that is at no gate. Nobody has waited for it before: the actor may have loaded, or
        trained, for longer than the limit."""
        self._waited_for_since = time.monotonic()
        self._wait_until(self._gate.open, logger.info, 10.0)
        self._waited_for_since = time.monotonic()

    def wait_ready(
        self, report: Callable[[str], None] = logger.info, report_every_s: float = 10.0
    ) -> float:
        """Until the server takes requests; returns the seconds since its start."""
        assert not self.is_at_gate, f"server {self.name} waits at its gate: open it first"
        self._wait_until(self._answers_ready, report, report_every_s)
        self._check_model()
        # Without a GPU a flush of the cache is a full garbage collection, half a second over all that the imports left;
        # on one, collections stop the scheduler between steps. What exists now is there to stay.
        self._get("/freeze_gc")
        self.counters_before = read_counters(self.url)
        return time.monotonic() - self._started_at

    def _wait_until(
        self, is_true: Callable[[], bool], report: Callable[[str], None], report_every_s: float
    ) -> None:
        limit = self._limit_s
        next_report = report_every_s
        while not is_true():
            waited = time.monotonic() - self._waited_for_since
            if not self.is_running():
                raise RolloutEngineError(
                    f"server {self.name} died while starting. {self.log_tail()}"
                )
            if waited > limit:
                tail = self.log_tail()
                self.stop()
                raise RolloutEngineError(
                    f"server {self.name} was not ready within servers.start_timeout_s={limit:g}; raise it, or "
                    f"look for what it waits for. {tail}"
                )
            if waited >= next_report:
                report(
                    f"waiting for server {self._placement.host}:{self.port}: {waited:.0f} s of at most {limit:g} s"
                )
                next_report = waited + report_every_s
            time.sleep(_POLL_INTERVAL_S)

    def is_running(self) -> bool:
        return self._child.is_running()

    def restart(self) -> None:
        """A fresh process on the same port, ready but without the run's weights: publish before sampling. Whoever
        shares its accelerators has let go of them."""
        self._end_for_restart()
        self.start()
        self.wait_ready()

    def restart_behind_gate(self) -> None:
        """As `restart`, while somebody else holds the accelerators; returns at once, and `open_gate` and `wait_ready`
        follow."""
        self._end_for_restart()
        self.start(behind_gate=True)

    def _end_for_restart(self) -> None:
        if self.num_restarts >= self._config.max_server_restarts:
            self.stop()  # who still waits for a response of a hung one learns of it
            raise RolloutEngineError(
                f"server {self.name} was lost again after servers.max_server_restarts="
                f"{self._config.max_server_restarts} restarts; raise it, or mend what ends the server. "
                f"{self.log_tail()}"
            )
        self.num_restarts += 1
        self.stop()

    def stop(self) -> None:
        """All of it. Harmless when it runs no more."""
        self._child.stop()

    def log_tail(self) -> str:
        return self._child.log_tail()

    def kv_tokens(self) -> int:
        """What its KV cache holds, in tokens. Of a ready server."""
        return int(self._get_field("/server_info", "max_total_num_tokens"))

    def _check_model(self) -> None:
        """Before the first request. The port was ours alone, so this fails only where something is badly wrong."""
        served, ours = self._get_field("/model_info", "model_path"), self._arguments["model_path"]
        if served != ours:
            raise ValueError(
                f"server {self.name} at {self.url} serves the model {served}, not model.path={ours}; another server "
                "answers on this port: choose another servers.port, or 0 for a free one."
            )

    def _get_field(self, route: str, name: str) -> Any:
        try:
            return get_field(self.url, route, name)
        except (HttpError, ValueError) as error:
            raise RolloutEngineError(
                f"server {self.name} does not tell its {name} at {route} ({error}). "
                f"{self.log_tail()}"
            ) from error

    def _answers_ready(self) -> bool:
        return self._get("/ready")

    def _get(self, route: str) -> bool:
        """Whether it answers 200 within some seconds."""
        try:
            return request("GET", self.url + route, timeout_s=_PROBE_TIMEOUT_S).status == 200
        except HttpError:  # not listening yet, or lost: the next call says more
            return False
