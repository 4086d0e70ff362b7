"""Which server leaves a rank without an answer, for its status: by its name, and by what its processes are at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psutil

from megatron_ar3po.http_client import calls_under_way
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.wiring.servers import RunServer

_QUIET_S = 5.0  # a server that is well answers something more often, and says nothing for longer with long responses


def find_awaited(
    servers: Sequence[RunServer], *, quiet_s: float = _QUIET_S
) -> Callable[[], tuple[str, float]]:
    """For `RankWatch.calls`: what this rank waits for, and for how long it was not answered; "" where it waits for no
    server, or has just been answered."""
    by_address, processes = {server.url: server for server in servers}, _ProcessesOf()

    def look() -> tuple[str, float]:
        calls = max(calls_under_way(), key=lambda found: found.quiet_s, default=None)
        if calls is None or calls.quiet_s < quiet_s:
            return "", 0.0
        server = by_address.get(calls.server)
        name = f"server {server.name} ({calls.server})" if server else calls.server
        num = f"{calls.num} calls" if calls.num > 1 else "a call"
        told = (
            f"waiting for {name}: {num} ({calls.route}) without an answer for {calls.quiet_s:.0f} s"
        )
        return told + processes.describe(server), calls.quiet_s

    return look


class _ProcessesOf:
    """A server's processes that stand still, where it is ours and on this machine. To find its children takes a look at
    all processes of the machine, so that is done once a process."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, list[psutil.Process]]] = {}  # (its restarts, processes)

    def describe(self, server: RunServer | None) -> str:
        if not isinstance(server, SglangServer):
            return ""
        if not server.is_running():
            return "; its process has ended"
        num_restarts, processes = self._known.get(server.name, (-1, []))
        if num_restarts != server.num_restarts:
            try:
                first = psutil.Process(server.process_group)
                processes = [first, *first.children(recursive=True)]
            except psutil.Error:  # it ends just now
                return ""
            self._known[server.name] = (server.num_restarts, processes)
        stopped = [p.pid for p in processes if _is_stopped(p)]
        if not stopped:
            return ""
        return f"; its process {', '.join(map(str, stopped))} stands still (stopped by a signal)"


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:  # it has ended
        return False
