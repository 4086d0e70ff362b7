"""A whole trainer without the half minute of SGLang: an external server (`servers.urls`) in this process that answers
as SGLang does, for `examples/tiny_sum`. Weights are taken and not looked at; a response is a function of its seed, and
one in three is right."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from megatron_ar3po.config.schema import Config
from megatron_ar3po.servers.arguments import server_arguments
from tools.tiny_sum_task import CHARACTERS, MODULUS, STOP

KV_TOKENS = 8192
_LOGPROB = -1.0


class StubSglang(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stated: Mapping[str, Any] = {}
        self.version = "default"
        self.counters: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._hold_after: int | None = None
        self._released = threading.Event()
        self.is_holding = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed takes no response."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def state_options_of(self, config: Config) -> None:
        """As if it had been started by a run of `config`."""
        self.stated = server_arguments(
            config.servers,
            model_path=config.model.path,
            dtype=config.model.dtype,
            port=0,
            tensor_parallel_size=1,
            is_deterministic=config.run.deterministic,
            on_gpu=False,
        ) | {"max_total_num_tokens": KV_TOKENS}

    def hold_after(self, num_requests: int | None) -> None:
        """Further requests wait once so many were answered, all runs together; None: all go on."""
        self._hold_after = num_requests
        if num_requests is None:
            self.is_holding = False
            self._released.set()
        else:
            self._released.clear()

    def _wait_while_held(self) -> None:
        answered = self.counters["sglang:num_requests_total"]
        if self._hold_after is not None and answered >= self._hold_after:
            self.is_holding = True
            self._released.wait()

    def generate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._wait_while_held()
        prompt, sampling = body["input_ids"], body["sampling_params"]
        seed = sampling.get("sampling_seed", 0)
        sampled = [] if not sampling["max_new_tokens"] else answer(prompt, seed)
        scored = prompt[body["logprob_start_len"] :] if not sampled else []
        with self.lock:
            self.counters["sglang:num_requests_total"] += 1
            self.counters["sglang:prompt_tokens_total"] += len(prompt)
            self.counters["sglang:generation_tokens_total"] += len(sampled)
        return {
            "output_ids": sampled,
            "meta_info": {
                "id": body["rid"],
                "finish_reason": {"type": "stop", "matched": CHARACTERS.index(STOP)},
                "prompt_tokens": len(prompt),
                "completion_tokens": len(sampled),
                "cached_tokens": 0,
                "weight_version": self.version,
                "weight_versions": [{"version": self.version, "start": 0, "end": len(sampled)}],
                "output_token_logprobs": [[_LOGPROB, token, None] for token in sampled],
                "input_token_logprobs": [[_LOGPROB, token, None] for token in scored],
            },
        }


def answer(prompt: list[int], seed: int) -> list[int]:
    """The right sum modulo 10 when the seed is divisible by 3, else the next higher digit; then the stop token."""
    digits = [int(c) for c in (CHARACTERS[token] for token in prompt) if c.isdigit()]
    value = (sum(digits) + (seed % 3 != 0)) % MODULUS
    return [CHARACTERS.index(str(value)), CHARACTERS.index(STOP)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubSglang

    def do_GET(self) -> None:
        if self.path == "/server_info":
            return self._reply(json.dumps(dict(self.server.stated)))
        if self.path == "/model_info":
            return self._reply(json.dumps({"weight_version": self.server.version}))
        if self.path == "/metrics/":
            with self.server.lock:
                counters = dict(self.server.counters)
            return self._reply("".join(f'{name}{{a="1"}} {n}.0\n' for name, n in counters.items()))
        return self._reply("{}")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.loads(content or b"null") or {}
        if self.path == "/generate":
            return self._generate(body)
        if self.path == "/update_weight_version":
            self.server.version = body["new_version"]
        elif self.path == "/update_weights_from_disk":
            self.server.version = body["weight_version"]
        return self._reply("{}")

    def _generate(self, body: Mapping[str, Any]) -> None:
        """One response, or a stream of them for a call of many, each sent when it is there."""
        if isinstance(body["rid"], str):
            return self._reply(json.dumps(self.server.generate(body)))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        names = ("rid", "input_ids", "sampling_params")
        for item in zip(*(body[name] for name in names), strict=True):
            self._send_event(json.dumps(self.server.generate(dict(zip(names, item, strict=True)))))
        self._send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _reply(self, text: str) -> None:
        content = text.encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_stub() -> Iterator[StubSglang]:
    server = StubSglang()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
