"""Which server a rank waits for, and what became of its processes: a shell in the server's place. Not exercised: a real
one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil

from megatron_ar3po import http_client
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.wiring.awaited_servers import find_awaited

SCRIPT = "#!/bin/sh\nsleep 1 &\nsleep 60\n"  # a helper that ends soon, as a compiler does


def start_server(folder: Path) -> SglangServer:
    interpreter = folder / "python"
    interpreter.write_text(SCRIPT)
    interpreter.chmod(0o755)
    server = SglangServer(
        ServersConfig(),
        ServerPlacement(name="dp0.s0", number=0),
        model_path="model",
        dtype="float32",
        is_deterministic=False,
        log_dir=folder,
        interpreter=interpreter,
        stop_grace_s=0.5,
    )
    server.start()
    return server


def wait_until(condition, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(url: str) -> None:
    with contextlib.suppress(http_client.HttpError):
        http_client.request("POST", url, timeout_s=30)


def test_a_server_whose_process_stands_still_is_told_also_after_another_of_its_processes_ended(
    tmp_path,
):
    server = start_server(tmp_path)
    with socket.socket() as deaf:  # takes the call and never answers
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deaf.bind(("127.0.0.1", server.port))
        deaf.listen()
        first = psutil.Process(server.process_group)
        wait_until(lambda: len(first.children()) == 2)
        look = find_awaited([server], quiet_s=0.1)
        assert look() == ("", 0.0)
        asking = threading.Thread(target=ask, args=(f"{server.url}/generate",))
        asking.start()
        wait_until(lambda: look()[0] != "")
        told, quiet_s = look()
        assert told.startswith(f"waiting for server dp0.s0 ({server.url}): a call (/generate) with")
        assert told.endswith("s") and quiet_s >= 0.1
        wait_until(lambda: len(first.children()) == 1)
        [stays] = first.children()
        os.kill(stays.pid, signal.SIGSTOP)
        wait_until(lambda: stays.status() == psutil.STATUS_STOPPED)
        assert look()[0].endswith(f"; its process {stays.pid} stands still (stopped by a signal)")
        server.stop()
        assert look()[0].endswith("; its process has ended")
    asking.join(60)
