"""Sets asked of a server that runs: here a stub that always answers 7."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_ar3po.algorithm.verdict_checks import VerifierFailedError
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.suite import one_set
from megatron_ar3po.evaluation.figures import SetAnswers
from megatron_ar3po.evaluation.remote import ask_server
from megatron_ar3po.evaluation.sampling import Answering
from megatron_ar3po.evaluation.subjects import Subject
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.rollout.draws import evaluation_draws
from megatron_ar3po.types import Prompt, SamplingParams

TESTS = Path(__file__).resolve().parents[2]  # workers import the failing grader from there
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


def test_a_verifier_that_fails_too_often_ends_an_evaluation_kept_answers_included(
    url, tiny_task, tmp_path, monkeypatch
):
    """It fails for the one prompt of four whose source is b, in the first evaluation and in the second, which asks for
    that one alone: a share of 1/4 both times."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    )
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"{n}+1=", "answer": "7", "source": "ab"[n == 3]} for n in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(max_error_frac: float) -> SetAnswers:
        words = [f"model.path={tiny_task}/model", f"rewards.max_error_frac={max_error_frac}"]
        words.append("evaluation.samples_per_prompt=1")
        words.append("rewards.by_source={a: last_number, b: {verifier: 'fakes.graders:failing'}}")
        config = load_config([], words)
        answering = Answering(
            subject=Subject(config=config, hf_folder=tiny_task / "model", url=url),
            sets=one_set("mine", str(data), config),
            out=tmp_path / "out",
            store=tmp_path / "items",
            server_tp=1,
            named_weights="mine",
        )
        with ExitStack() as stack:
            [found] = answering.answer(stack)
        return found

    assert answer(0.5).reused == 0
    assert answer(0.5).reused == 3
    with pytest.raises(VerifierFailedError, match="failed for 1 of 4 responses of this evaluation"):
        answer(0.2)
