"""Sets asked of a server that runs: here a stub that always answers 7."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.suite import one_set
from megatron_ar3po.evaluation.remote import ask_server
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.rollout.draws import evaluation_draws
from megatron_ar3po.types import Prompt, SamplingParams

ANSWER = {
    "choices": [{"text": "it is 7", "finish_reason": "stop"}],
    "usage": {"completion_tokens": 3},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply({"data": [{"id": "mine"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(ANSWER)

    def reply(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_prompt_is_asked_and_graded_with_the_default_settings(url, tmp_path: Path):
    """How many at once is left open by default, which is not none."""
    config = load_config([], ["rewards.verifier=last_number", "servers.request_timeout_s=20"])
    assert config.servers.max_concurrent_requests == 0
    sets = one_set("mine", str(tmp_path), config)
    prompts = [
        Prompt(prompt_id=f"{i}", token_ids=(i + 1,), ground_truth=str(6 + i)) for i in range(3)
    ]
    asked = PromptSet(name="mine", prompts=prompts, samples=2, sampling=SamplingParams())
    draws = list(evaluation_draws([asked], run_seed=0, seed_key="eval", policy_version=0))
    found = {}
    ask_server(url, "", str, sets, [draws], lambda draw, item: found.update({draw.seed: item}))
    assert [found[draw.seed].status for draw in draws] == [
        *["incorrect"] * 2,
        *["correct"] * 2,
        *["incorrect"] * 2,
    ]
