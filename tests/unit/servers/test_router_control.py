"""What the router is told: a few lines of HTTP stand in its place. The real one: tests/e2e/test_router_process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_ar3po.servers.router_control import RouterControl


class Router(ThreadingHTTPServer):
    """Takes what it is told at once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.known: list[str] = []
        self.calls: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Router

    def do_GET(self) -> None:
        self.respond(
            {"workers": [{"url": u, "id": u[-1], "is_healthy": True} for u in self.server.known]}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append(f"add {body['url']}")
        self.server.known.append(body["url"])
        self.respond({})

    def do_DELETE(self) -> None:
        self.server.calls.append(f"remove {self.path}")
        self.server.known = [url for url in self.server.known if url[-1] != self.path[-1]]
        self.respond({})

    def respond(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def router() -> Iterator[Router]:
    server = Router()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_is_added_once_and_removed_by_the_routers_name_for_it(router) -> None:
    control = RouterControl(router.url)
    control.add("http://s1")
    control.remove("http://s1")
    control.remove("http://s1")  # it knows none
    assert router.calls == ["add http://s1", "remove /workers/1"]


def test_a_router_that_was_restarted_with_a_server_is_not_told_of_it_again(router) -> None:
    router.known = ["http://s1", "http://s2"]
    RouterControl(router.url).add("http://s2")
    assert router.calls == []
