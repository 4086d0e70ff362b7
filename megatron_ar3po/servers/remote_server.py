"""`RemoteServer`: a server of this replica on another of its nodes, as the replica's leader sees it.

The rank that started it is the first of the replica on that node, and the only one that can end or restart it: it is
asked to by `Ranks.call_in_replica`, which is why this is used inside `run_on_leader` only. Samples, weights and
counters go straight to the server's address.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from megatron_ar3po.http_client import HttpError
from megatron_ar3po.servers.child_process import log_tail
from megatron_ar3po.servers.counters import read_counters
from megatron_ar3po.servers.server_info import get_field
from megatron_ar3po.usage import ServerCounters

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 5.0


class RemoteServer:
    def __init__(
        self,
        *,
        name: str,
        url: str,
        tensor_parallel_size: int,
        log_path: Path,
        ask: Callable[[str, str], None],
        is_at_gate: bool = False,
    ) -> None:
        """`ask(what, name)`: its owner does it; returns when it is done. What: 'open_gate', 'wait_server',
        'restart_server', 'restart_behind_gate'. `is_at_gate`: as its owner has started it."""
        self.name, self.url = name, url
        self.tensor_parallel_size = tensor_parallel_size
        self.num_restarts = 0
        self.is_at_gate = is_at_gate
        self.counters_before = ServerCounters()
        self._log_path = log_path
        self._ask = ask

    def open_gate(self) -> None:
        self._ask("open_gate", self.name)
        self.is_at_gate = False

    def wait_ready(self) -> float:
        started = time.monotonic()
        self._ask("wait_server", self.name)
        self.counters_before = read_counters(self.url)
        return time.monotonic() - started

    def restart(self) -> None:
        self._ask("restart_server", self.name)
        self.num_restarts += 1
        self.is_at_gate = False
        self.counters_before = read_counters(self.url)

    def restart_behind_gate(self) -> None:
        self._ask("restart_behind_gate", self.name)
        self.num_restarts += 1
        self.is_at_gate = True

    def is_running(self) -> bool:
        """Whether something answers there: nobody here sees the process."""
        try:
            get_field(self.url, "/model_info", "model_path", timeout_s=_PROBE_TIMEOUT_S)
        except (HttpError, ValueError):
            return False
        return True

    def kv_tokens(self) -> int:
        return int(get_field(self.url, "/server_info", "max_total_num_tokens"))

    def log_tail(self) -> str:
        return f"It runs at {self.url}, on another node. {log_tail(self._log_path)}"
