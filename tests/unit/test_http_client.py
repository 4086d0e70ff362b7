"""The HTTP client against servers of a few lines on loopback. Not exercised: TLS, and hosts off
the machine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_ar3po.http_client import HttpClient, HttpError, HttpTimeout, request


class Echo(BaseHTTPRequestHandler):
    """Says what it was asked; /slow takes a second, /broken promises more than it sends."""

    protocol_version = "HTTP/1.1"
    server: EchoServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.seen.append((self.command, self.path, self.client_address[1]))
        if self.path == "/slow":
            time.sleep(1.0)
        text = json.dumps({"path": self.path, "body": json.loads(body or "null")})
        self.send_response({"/missing": 404, "/moved": 307}.get(self.path, 200))
        self.send_header("X-Server", "echo")
        self.send_header("X-Accepted-Encoding", self.headers.get("Accept-Encoding", ""))
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(text) + 9 * (self.path == "/broken")))
        self.end_headers()
        self.wfile.write(text.encode())
        self.close_connection = self.path == "/broken"

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


class EchoServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.seen: list[tuple[str, str, int]] = []  # method, path as sent, the caller's port
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that gave up."""


@contextmanager
def listening() -> Iterator[EchoServer]:
    server = EchoServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with listening() as server:
        yield server


def test_a_body_goes_out_as_json_and_status_headers_and_body_come_back(server: EchoServer) -> None:
    response = request("POST", server.url + "/x", json={"rid": "a"}, timeout_s=5)
    assert (response.status, response.headers["x-server"]) == (200, "echo")
    assert response.json() == {"path": "/x", "body": {"rid": "a"}}
    assert request("DELETE", server.url + "/y", timeout_s=5).json() == {"path": "/y", "body": None}


def test_no_server_is_asked_to_pack_what_it_sends(server: EchoServer) -> None:
    """SGLang's page of counters takes longer to pack than to send."""
    response = request("GET", server.url + "/metrics/", timeout_s=5)
    assert response.headers["x-accepted-encoding"] == "identity"


def test_a_status_is_the_callers_to_judge_and_no_redirect_is_followed(server: EchoServer) -> None:
    assert request("GET", server.url + "/missing", timeout_s=5).status == 404
    assert request("GET", server.url + "/moved", timeout_s=5).status == 307
    assert [path for _, path, _ in server.seen] == ["/missing", "/moved"]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_of_the_environment_is_not_used(server: EchoServer, monkeypatch, name) -> None:
    """The proxy is a server as well and would say so: through one, a request's path is a whole URL."""
    for inherited in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(inherited)
    with listening() as proxy:
        monkeypatch.setenv(name, proxy.url)
        request("GET", server.url + "/one", timeout_s=5)

        async def ask() -> None:
            client = HttpClient(timeout_s=5)
            await client.request("GET", server.url + "/many")
            await client.close()

        asyncio.run(ask())
        assert [path for _, path, _ in server.seen] == ["/one", "/many"]
        assert proxy.seen == []


def test_a_server_that_takes_too_long_is_given_up_at_the_calls_own_limit(
    server: EchoServer,
) -> None:
    started = time.monotonic()
    with pytest.raises(
        HttpTimeout, match=rf"GET {server.url}/slow failed after 0\.\d s: no response within 0\.2 s"
    ):
        request("GET", server.url + "/slow", timeout_s=0.2)
    assert time.monotonic() - started < 0.9


def test_where_nobody_listens_the_error_names_the_call_and_is_no_timeout() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/ready"
        with pytest.raises(HttpError) as caught:
            request("GET", url, timeout_s=5)
    assert str(caught.value) == f"GET {url} failed after 0.0 s: Connection refused"
    assert not isinstance(caught.value, HttpTimeout)


def test_a_connection_that_is_not_made_in_time_is_no_timeout_of_the_server() -> None:
    """The queue of a listener that accepts nobody is full, as a lost host's would seem to be."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"

        async def ask() -> None:
            client = HttpClient(timeout_s=5, connect_timeout_s=0.2)
            try:
                await client.request("GET", url)
            finally:
                await client.close()

        with pytest.raises(HttpError, match="no connection") as caught:
            asyncio.run(ask())
        for one in waiting:
            one.close()
    assert not isinstance(caught.value, HttpTimeout)


def test_a_response_that_ends_too_soon_is_an_error(server: EchoServer) -> None:
    with pytest.raises(HttpError, match="/broken failed after"):
        request("GET", server.url + "/broken", timeout_s=5)


def test_a_url_that_is_none_is_an_error() -> None:
    with pytest.raises(HttpError, match="GET nonsense failed"):
        request("GET", "nonsense", timeout_s=5)


def test_a_single_call_may_be_made_inside_a_running_loop_and_from_many_threads(
    server: EchoServer,
) -> None:
    async def inside() -> int:
        return request("GET", server.url + "/in", timeout_s=5).status

    assert asyncio.run(inside()) == 200
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(request("GET", server.url, timeout_s=5).status)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert statuses == [200] * 8


def test_a_forked_process_can_make_calls_too(server: EchoServer) -> None:
    """It inherits the module, in which the thread of the single calls is said to run, but not the thread."""
    request("GET", server.url + "/parent", timeout_s=5)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = int(request("GET", server.url + "/child", timeout_s=5).status != 200)
        finally:
            os._exit(status)
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert [path for _, path, _ in server.seen] == ["/parent", "/child"]


def test_a_client_keeps_its_connection_and_a_single_call_does_not(server: EchoServer) -> None:
    async def twice() -> None:
        client = HttpClient(timeout_s=5)
        for _ in range(2):
            await client.request("GET", server.url)
        await client.close()

    asyncio.run(twice())
    for _ in range(2):
        request("GET", server.url, timeout_s=5)
    first, second, third, fourth = (port for _, _, port in server.seen)
    assert first == second and len({second, third, fourth}) == 3


def test_a_client_can_be_used_in_another_loop_after_it_was_closed(server: EchoServer) -> None:
    client = HttpClient(timeout_s=5)

    async def once() -> int:
        try:
            return (await client.request("GET", server.url)).status
        finally:
            await client.close()

    assert [asyncio.run(once()), asyncio.run(once())] == [200, 200]
