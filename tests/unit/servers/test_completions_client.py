"""A client of a server that others run. The server here is a stub; a real one answers in tests/e2e/test_main_job.py."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.completions_client import (
    Completion,
    CompletionsClient,
    ServerKind,
    find_kind,
)
from megatron_ar3po.types import SamplingParams

GOOD = {
    "choices": [{"text": " 42", "finish_reason": "stop"}],
    "usage": {"completion_tokens": 3},
}


class Stub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, Any]] = []  # the last one stays
        self.asked: list[Any] = []
        self.info: Any = None  # as SGLang says what it is

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        if self.path == "/server_info":
            self.reply(404 if self.server.info is None else 200, self.server.info)
            return
        assert self.path == "/v1/models"
        self.reply(200, {"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        assert self.path == ("/generate" if self.server.info else "/v1/completions")
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        replies = self.server.replies
        self.reply(*(replies.pop(0) if len(replies) > 1 else replies[0]))

    def reply(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def complete(stub: Stub, **options: Any) -> Completion:
    async def ask() -> Completion:
        kind = find_kind(stub.url, "second")
        client = CompletionsClient(
            stub.url, kind, decode=str, timeout_s=10, max_retries=2, wait_s=0.0
        )
        sampling = SamplingParams(
            temperature=0.5, top_p=0.9, max_response_tokens=7, stop_token_ids=(2, 198)
        )
        try:
            return await client.complete((5, 6), sampling, 11, **options)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_a_prompt_is_asked_for_by_its_tokens_with_the_sets_sampling(stub):
    stub.replies = [(200, GOOD)]
    assert complete(stub) == Completion(text=" 42", tokens=3, finish_reason="stop")
    asked = {"model": "second", "prompt": [5, 6], "max_tokens": 7, "temperature": 0.5}
    assert stub.asked == [asked | {"top_p": 0.9, "seed": 11}]
    complete(stub, extra_stop_token_ids=(198,))
    assert stub.asked[1]["stop_token_ids"] == [198]


@pytest.mark.parametrize("is_seeded", [False, True])
def test_sglang_is_asked_by_its_own_api_and_answers_in_tokens(stub, is_seeded):
    stub.info = {"skip_tokenizer_init": True, "enable_deterministic_inference": is_seeded}
    meta = {"finish_reason": {"type": "length", "length": 3}, "completion_tokens": 3}
    stub.replies = [(200, {"output_ids": [7, 8, 9], "meta_info": meta})]
    assert find_kind(stub.url) == ServerKind(is_sglang=True, is_seeded=is_seeded)
    assert complete(stub) == Completion(text="[7, 8, 9]", tokens=3, finish_reason="length")
    parameters = {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7, "stop_token_ids": [2, 198]}
    seeded = {"sampling_seed": 11} if is_seeded else {}
    assert stub.asked == [{"input_ids": [5, 6], "sampling_params": parameters | seeded}]
    stub.replies = [(200, {"output_ids": [], "meta_info": {"finish_reason": {"type": "abort"}}})]
    with pytest.raises(RolloutEngineError, match="it ended by 'abort'"):
        complete(stub)


def test_an_answer_that_was_cut_off_says_so(stub):
    cut = {**GOOD, "choices": [{"text": "4", "finish_reason": "length"}]}
    stub.replies = [(200, cut)]
    assert complete(stub).finish_reason == "length"


def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(stub):
    stub.replies = [(503, {}), (429, {}), (200, GOOD)]
    assert complete(stub).text == " 42"
    stub.asked.clear()
    stub.replies = [(400, {"error": "no such parameter"})]
    with pytest.raises(RolloutEngineError, match=r"gave no completion: status 400: .*no such"):
        complete(stub)
    assert len(stub.asked) == 1
    stub.replies = [(503, {"error": "starting"})]
    with pytest.raises(RolloutEngineError, match="status 503"):
        complete(stub)
    assert len(stub.asked) == 1 + 3


def test_what_is_no_completion_is_named(stub):
    stub.replies = [(200, {"choices": []})]
    with pytest.raises(RolloutEngineError, match="answered with something else than a completion"):
        complete(stub)


def test_the_model_is_the_servers_first_or_the_one_that_is_named(stub):
    assert find_kind(stub.url) == ServerKind(is_sglang=False, model="first")
    assert find_kind(f"{stub.url}", "second").model == "second"
    with pytest.raises(ValueError, match="serves first, second, not third; name one of them"):
        find_kind(stub.url, "third")


def test_where_nobody_listens_the_address_is_named():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(RolloutEngineError, match=rf"{url} does not say which models it serves"):
        find_kind(url)
