"""An ASGI application that keeps SGLang's rules for what a trainer does to a server: pause, session, memory, requests.
Run by uvicorn in a thread, with or without the lease of our own servers before it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from megatron_ar3po.platform.server_lease import ServerLease


class FakeSglang:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_paused = False
        self.has_session = False
        self.asleep: set[str] = set()
        self.num_running = 0
        self.ends_after_s: float | None = None  # None: running requests last until they are aborted
        self.num_aborted = 0
        self.version = "default"
        self.loaded = ""
        self.stated: dict[str, Any] = {}
        self.slow_s = 0.0  # how long an update takes
        self.stands_still_s = (
            0.0  # how long /stand_still keeps the event loop, and all other calls with it
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = json.loads((await receive()).get("body") or b"null") or {}
        path = scope["path"]
        self.calls.append(path)
        if path in {"/update_weights_from_tensor", "/update_weights_from_disk"}:
            await asyncio.sleep(self.slow_s)
        if path == "/flush_cache" and self.ends_after_s is not None:
            waits_s = float(parse_qs(scope["query_string"].decode()).get("timeout", ["0"])[0])
            await asyncio.sleep(min(waits_s, self.ends_after_s))
            if self.ends_after_s <= waits_s:
                self.num_running = 0
        if path == "/stand_still":
            time.sleep(self.stands_still_s)
        status, content = self.respond(path, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content.encode()})

    def respond(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        match path:
            case "/ready":
                return (503 if self.is_paused else 200), ""
            case "/pause_generation":
                self.is_paused = True
            case "/continue_generation":
                self.is_paused = False
            case "/begin_weight_update" if self.has_session:
                return (
                    400,
                    "a weight-update session is already open; call end_weight_update() first",
                )
            case "/begin_weight_update":
                self.has_session = True
            case "/end_weight_update" if not self.has_session:
                return 400, "no weight-update session is open"
            case "/end_weight_update":
                self.has_session = False
            case "/release_memory_occupation":
                self.asleep |= set(body["tags"])
            case "/resume_memory_occupation":
                for tag in body["tags"]:
                    self.asleep.remove(tag)  # KeyError, as SGLang's scheduler, which dies of it
            case "/flush_cache" if self.num_running:
                return 400, "Timed out waiting for idle state."
            case "/abort_request":
                self.num_aborted, self.num_running = self.num_running, 0
            case "/update_weights_from_disk":
                self.loaded, self.version = body["model_path"], body["weight_version"]
            case "/model_info":
                return 200, json.dumps({"weight_version": self.version})
            case "/server_info":
                return 200, json.dumps(self.stated)
            case "/flush_cache" | "/metrics/" | "/update_weights_from_tensor":
                pass
            case _:
                return 404, "Not Found"
        return 200, "{}"


@contextmanager
def serve(app: FakeSglang, *, with_lease: bool = True, owner: str = "") -> Iterator[str]:
    """Its URL."""
    config = uvicorn.Config(
        ServerLease(app, owner=owner, pulse_s=0.2) if with_lease else app,
        port=0,
        log_level="error",
        lifespan="off",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "uvicorn did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.force_exit = server.should_exit = True
    thread.join(20)
