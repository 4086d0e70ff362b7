"""The SGLang server process of a replica: start, wait, restart, stop.

Promises:
- `start` returns at once, so that the trainer can build its model meanwhile; `wait_ready` waits at most the configured
  time, says every few seconds that it waits, and fails with the server's last log lines when the server dies;
- the process and everything it started end with `stop`, and within seconds when the trainer dies for whatever reason
  (`platform.sglang_launch` watches the trainer);
- a port in use is a `ValueError` before anything is started.

Publishing weights to the server and sampling from it are left to others: they speak HTTP to `url`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import megatron_ar3po
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.sglang_launch import PROCESS_VARIABLE
from megatron_ar3po.servers.arguments import server_arguments
from megatron_ar3po.servers.facts import last_lines, told
from megatron_ar3po.servers.ports import HOST, reserve_port

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_KILL_LIMIT_S = 60.0
_KEEP_ALIVE_S = 24 * 3600

# What torchrun, Slurm's MPI and the trainer set for their own process groups; a server that inherits it joins them.
_TRAINER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "CUDA_VISIBLE_DEVICES_ORIGINAL",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUDA_DEVICE_MAX_CONNECTIONS",
)
_TRAINER_PREFIXES = ("TORCHELASTIC_", "TORCH_NCCL_")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace:
    """Where one server of a run sits."""

    name: str  # "dp0.s0": names the log file and the ledger's rows
    number: int = 0  # over the run, from 0: a configured port is counted up by it
    node: int = 0
    host: str = HOST  # the address it listens on
    gpu_ids: tuple[
        str, ...
    ] = ()  # as in CUDA_VISIBLE_DEVICES; empty: no GPU, or all that are visible
    tensor_parallel_size: int = 1


class SglangServer:
    """One server. Used by the leader of its replica only."""

    def __init__(
        self,
        config: ServersConfig,
        place: ServerPlace,
        *,
        model_path: str,
        dtype: str,
        is_deterministic: bool,
        log_dir: Path,
        interpreter: str | Path = sys.executable,
        stop_grace_s: float = 5.0,
    ) -> None:
        """`interpreter`: the Python that runs the server. `stop_grace_s`: from `stop` until it is killed."""
        self._interpreter, self._stop_grace_s = interpreter, stop_grace_s
        self.name = place.name
        self.num_restarts = 0
        self.log_path = log_dir / f"sglang_{place.name}.log"
        self._config = config
        self._place = place
        self._reservation = reserve_port(
            config.port + place.number if config.port else 0, place.host
        )
        self.port: int = self._reservation.getsockname()[1]
        self._arguments = server_arguments(
            config,
            model_path=model_path,
            dtype=dtype,
            host=place.host,
            port=self.port,
            tensor_parallel_size=place.tensor_parallel_size,
            is_deterministic=is_deterministic,
            on_gpu=torch.cuda.is_available(),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = ""
        self._started_at = 0.0

    @property
    def tensor_parallel_size(self) -> int:
        return self._place.tensor_parallel_size

    @property
    def url(self) -> str:
        return f"http://{self._place.host}:{self.port}"

    @property
    def process_group(self) -> int:
        """Of the running server; its launcher's pid too."""
        assert self._process is not None, f"server {self.name} does not run"
        return self._process.pid

    def start(self) -> None:
        """Returns at once; the server loads in the background."""
        assert self._process is None, f"server {self.name} was started twice; stop it first"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [str(self._interpreter), "-W", "ignore"]
        command += ["-m", "megatron_ar3po.platform.sglang_launch"]
        self._temporary = tempfile.mkdtemp(prefix="ar3po_sglang_")
        command += [str(os.getpid()), self._temporary, json.dumps(self._arguments)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # a byte on it ends the server
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **server_environment(os.environ, self._place.gpu_ids),
                    PROCESS_VARIABLE: f"{self.name}/{self.num_restarts}",
                },
                start_new_session=True,  # its own process group: it is ended as a whole
            )
        self._started_at = time.monotonic()

    def wait_ready(
        self, report: Callable[[str], None] = logger.info, report_every_s: float = 10.0
    ) -> float:
        """Until the server takes requests; returns the seconds since its start."""
        limit = self._config.start_timeout_s
        next_report = report_every_s
        while not self._answers_ready():
            waited = time.monotonic() - self._started_at
            if not self.is_running():
                raise RolloutEngineError(
                    f"server {self.name} died while starting. {self.last_words()}"
                )
            if waited > limit:
                words = self.last_words()
                self.stop()
                raise RolloutEngineError(
                    f"server {self.name} was not ready within servers.start_timeout_s={limit:g}; raise it, or "
                    f"look for what it waits for. {words}"
                )
            if waited >= next_report:
                report(
                    f"waiting for server {self._place.host}:{self.port}: {waited:.0f} s of at most {limit:g} s"
                )
                next_report = waited + report_every_s
            time.sleep(_POLL_INTERVAL_S)
        self._check_model()
        # Without a GPU a flush of the cache is a full garbage collection, half a second over all that the imports left;
        # on one, collections stop the scheduler between steps. What exists now is there to stay.
        self._get("/freeze_gc")
        return time.monotonic() - self._started_at

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """A fresh process on the same port, ready but without the run's weights: publish before sampling."""
        if self.num_restarts >= self._config.max_server_restarts:
            self.stop()  # who still waits for an answer of a hung one learns of it
            raise RolloutEngineError(
                f"server {self.name} was lost again after servers.max_server_restarts="
                f"{self._config.max_server_restarts} restarts; raise it, or mend what ends the server. "
                f"{self.last_words()}"
            )
        self.num_restarts += 1
        self.stop()
        self.start()
        self.wait_ready()

    def stop(self) -> None:
        """Ends the whole process group: asks its guard, waits a little, kills. Harmless when it runs no more. A server
        holds nothing that is worth a slow farewell."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.write(b"stop")
            process.stdin.close()
            process.wait(self._stop_grace_s)
        except BrokenPipeError:
            pass  # it has ended already
        except subprocess.TimeoutExpired:
            logger.info("server %s did not end within %g s: killed", self.name, self._stop_grace_s)
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)  # also what outlived its leader
        process.wait(_KILL_LIMIT_S)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def last_words(self) -> str:
        """For an error message: how it stands, its last log lines, and where the others are."""
        if self._process is None:
            state = "It was stopped."
        else:
            ended = self._process.poll()
            state = "It still runs." if ended is None else f"Its exit code was {ended}."
        return f"{state} {last_lines(self.log_path)}"

    def kv_tokens(self) -> int:
        """What its KV cache holds, in tokens. Of a ready server."""
        return int(self._told("/server_info", "max_total_num_tokens"))

    def _check_model(self) -> None:
        """Before the first request. The port was ours alone, so this fails only where something is badly wrong."""
        served, ours = self._told("/model_info", "model_path"), self._arguments["model_path"]
        if served != ours:
            raise ValueError(
                f"server {self.name} at {self.url} serves the model {served}, not model.path={ours}; another server "
                "answers on this port: choose another servers.port, or 0 for a free one."
            )

    def _told(self, route: str, name: str) -> Any:
        try:
            return told(self.url, route, name)
        except (HttpError, ValueError) as error:
            raise RolloutEngineError(
                f"server {self.name} does not tell its {name} at {route} ({error}). "
                f"{self.last_words()}"
            ) from error

    def _answers_ready(self) -> bool:
        return self._get("/ready")

    def _get(self, route: str) -> bool:
        """Whether it answers 200 within some seconds."""
        try:
            return request("GET", self.url + route, timeout_s=_PROBE_TIMEOUT_S).status == 200
        except HttpError:  # not listening yet, or lost: the next call says more
            return False


def server_environment(inherited: Mapping[str, str], gpu_ids: Sequence[str]) -> dict[str, str]:
    """The trainer's environment without what describes the trainer's own process group."""
    environment = {
        name: value
        for name, value in inherited.items()
        if name not in _TRAINER_VARIABLES and not name.startswith(_TRAINER_PREFIXES)
    }
    package_root = str(Path(megatron_ar3po.__file__).parents[1])
    paths = [package_root, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = (
        "1"  # the last log lines of a dying server are the ones that matter
    )
    # Connections must outlive a training phase: one that the server closed meanwhile fails the next request sent on it.
    environment["SGLANG_TIMEOUT_KEEP_ALIVE"] = str(_KEEP_ALIVE_S)
    environment.setdefault("HF_HUB_OFFLINE", "1")
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if gpu_ids:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
    if not torch.cuda.is_available():
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment
