"""`GlobalRouter`: one `sglang-router` in front of all servers of a run (`servers.routing=global`), so that the hard
prompts of one replica use the idle servers of another. Leader of replica 0 starts it; `RouterControl` is for all.

The router tries nothing again: a second try is a new request with a new id, and that is the client's to send. It sees a
server only while the server holds the run's weights: `remove` before a restart, `add` after the publish. A router that
died is started anew on its port, in front of the servers that hold weights then. It asks servers for their model, which
they tell at any time, asleep or in the middle of a publish; whether they still generate is for the clients to find out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.ports import HOST, reserve_port

logger = logging.getLogger(__name__)

_START_LIMIT_S = 60.0
_HEALTHY_LIMIT_S = 60.0
_CALL_TIMEOUT_S = 10.0
_BACK_LIMIT_S = 180.0  # for the first replica to restart it
_STOP_LIMIT_S = 10.0
_POLL_INTERVAL_S = 0.1
_LAST_LOG_LINES = 15


def check_router_installed() -> None:
    """ValueError before anything starts."""
    if importlib.util.find_spec("sglang_router") is None:
        raise ValueError(
            "servers.routing=global needs sglang-router, which is not installed; run `pip install --no-deps -r "
            "requirements/nodeps.txt`, or set servers.routing=local."
        )


class RouterControl:
    """What every leader may tell the router."""

    def __init__(self, url: str) -> None:
        self.url = url

    def remove(self, url: str) -> None:
        """Nothing is sent there any more. Harmless for one it does not know."""
        deadline = time.monotonic() + _HEALTHY_LIMIT_S
        for worker in self.workers():
            if worker["url"] == url:
                self._call("DELETE", f"/workers/{worker['id']}", accepted=(200, 202, 404))
        while any(worker["url"] == url for worker in self.workers()):
            self._give_up_after(deadline, f"did not let go of {url}")

    def add(self, url: str) -> None:
        """Returns when requests may go there."""
        self._call("POST", "/workers", {"url": url}, accepted=(200, 202))
        self.wait_healthy({url}, _HEALTHY_LIMIT_S)

    def wait_healthy(self, urls: set[str], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not urls <= (healthy := {w["url"] for w in self.workers() if w["is_healthy"]}):
            self._give_up_after(deadline, f"knows {sorted(healthy)} as healthy, not {sorted(urls)}")

    def workers(self) -> list[dict[str, Any]]:
        return self._call("GET", "/workers")["workers"]

    def _give_up_after(self, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            raise RolloutEngineError(
                f"the router {self.url} {what} within {_HEALTHY_LIMIT_S:g} s; look at RUN/logs."
            )
        time.sleep(_POLL_INTERVAL_S)

    def _call(
        self, verb: str, path: str, body: Any = None, *, accepted: Sequence[int] = (200,)
    ) -> dict[str, Any]:
        """A router that died is restarted by the first replica meanwhile."""
        deadline = time.monotonic() + _BACK_LIMIT_S
        while True:
            try:
                response = request(verb, self.url + path, json=body, timeout_s=_CALL_TIMEOUT_S)
                break
            except HttpError as error:
                if time.monotonic() > deadline:
                    raise RolloutEngineError(
                        f"the router {self.url} did not answer {path} within {_BACK_LIMIT_S:g} s: {error}; look at "
                        "RUN/logs/router.log."
                    ) from error
                time.sleep(_POLL_INTERVAL_S)
        if response.status not in accepted:
            raise RolloutEngineError(
                f"the router {self.url} refused {verb} {path} with HTTP {response.status}: {response.text[:300]}"
            )
        return response.json() if response.body else {}


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
        self.log_path = log_path
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
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary = ""

    @property
    def process_group(self) -> int:
        assert self._process is not None, "the router does not run"
        return self._process.pid

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
                f"or mend what ends the router. {self.last_words()}"
            )
        self.num_restarts += 1
        holding = [url for url in self._urls if holds_weights(url)]
        if not holding:
            raise RolloutEngineError(
                f"the router was lost and no server holds weights. {self.last_words()}"
            )
        self._start(holding)

    def _start(self, urls: Sequence[str]) -> None:
        arguments = {**self._arguments, "worker_urls": list(urls)}
        self._temporary = tempfile.mkdtemp(prefix="ar3po_router_")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "megatron_ar3po.servers.router_process"]
        command += [str(os.getpid()), self._temporary, json.dumps(arguments)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RolloutEngineError(
                    f"the router ended or did not listen within {_START_LIMIT_S:g} s. {self.last_words()}"
                )
            time.sleep(_POLL_INTERVAL_S)
        RouterControl(self.url).wait_healthy(set(urls), _START_LIMIT_S)

    def _listens(self) -> bool:
        try:
            return request("GET", self.url + "/workers", timeout_s=_CALL_TIMEOUT_S).status == 200
        except HttpError:  # not yet
            return False

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_STOP_LIMIT_S)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def last_words(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        shown = "\n".join(f"    {line[:300]}" for line in lines[-_LAST_LOG_LINES:])
        return f"Last lines of {self.log_path}:\n{shown}"


def holds_weights(url: str) -> bool:
    """Of a published version: one that was started anew, or takes an update now, states another than a number."""
    try:
        response = request("GET", url + "/model_info", timeout_s=_CALL_TIMEOUT_S)
        return response.status == 200 and str(response.json().get("weight_version")).isdigit()
    except (HttpError, ValueError):
        return False
