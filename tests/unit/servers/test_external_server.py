"""A server that someone else started, played by a few lines of HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.server_lease import ROUTE
from megatron_ar3po.platform.sglang_launch import PROCESS_HEADER
from megatron_ar3po.servers.external_server import ExternalServer

ARGUMENTS = {"model_path": "/model", "dtype": "float32", "tp_size": 1, "port": 0}
STATED = {**ARGUMENTS, "port": 1234, "max_total_num_tokens": 8192}
METRICS = 'sglang:num_requests_total{a="1"} 40.0\nsglang:generation_tokens_total{a="1"} 160.0\n'


class Stranger(ThreadingHTTPServer):
    """A server that somebody started with the options it states."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stated: dict[str, object] = dict(STATED)
        self.calls_itself_unhealthy = False  # until a look at its health, as SGLang does


class Handler(BaseHTTPRequestHandler):
    server: Stranger

    def do_GET(self) -> None:
        stated = json.dumps(self.server.stated)
        body = {"/server_info": stated, "/metrics/": METRICS}.get(self.path, "")
        if self.path == "/health_generate":
            self.server.calls_itself_unhealthy = False
        is_unready = self.path == "/ready" and self.server.calls_itself_unhealthy
        self.send_response(503 if is_unready else 200)
        self.send_header(PROCESS_HEADER, "dp0.s7/2")
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        """It lends no lease, and is idle."""
        self.send_response(404 if self.path == ROUTE else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    server = Stranger()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def make_server(url: str, **arguments: object) -> ExternalServer:
    return ExternalServer(
        url,
        name="dp0.s0",
        arguments={**ARGUMENTS, **arguments},
        tensor_parallel_size=1,
        timeout_s=0.3,
        publish_timeout_s=0.3,
        client="a test",
    )


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_it_takes_the_name_its_answers_will_state_and_what_it_had_counted(stranger) -> None:
    server = make_server(url_of(stranger))
    server.wait_ready()
    assert (server.name, server.num_restarts) == ("dp0.s7", 2)
    assert server.counters_before.requests == 40
    assert server.counters_before.generated_tokens == 160
    assert server.kv_tokens() == 8192


def test_a_server_with_other_options_is_refused_by_name(stranger) -> None:
    server = make_server(url_of(stranger), dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype is 'float32' there and 'bfloat16' here"):
        server.wait_ready()


def test_seeded_sampling_that_this_run_did_not_ask_for_is_another_option(stranger):
    stranger.stated["enable_deterministic_inference"] = True
    with pytest.raises(ValueError, match="enable_deterministic_inference is True there"):
        make_server(url_of(stranger)).wait_ready()
    make_server(url_of(stranger), enable_deterministic_inference=True).wait_ready()


def test_where_nothing_answers_the_message_names_the_option_and_the_limit() -> None:
    with pytest.raises(RolloutEngineError, match=r"servers\.urls.*servers\.start_timeout_s"):
        make_server("http://127.0.0.1:9").wait_ready()


def test_a_lost_server_is_not_restarted_by_a_run_that_did_not_start_it() -> None:
    server = make_server("http://127.0.0.1:9")
    assert not server.is_running()
    with pytest.raises(RolloutEngineError, match="This run did not start it"):
        server.restart()


def test_a_server_that_a_long_prefill_made_unready_is_neither_lost_nor_waited_for_in_vain(stranger):
    """Found in a run whose evaluation prefilled 4,096 tokens in 21 s: SGLang's own look at its health gave up after
    20 s, and the run ended as if the server were dead."""
    server = make_server(url_of(stranger))
    server.wait_ready()
    stranger.calls_itself_unhealthy = True
    assert server.is_running()
    make_server(url_of(stranger)).wait_ready()  # the next run that attaches to it
    assert not stranger.calls_itself_unhealthy
