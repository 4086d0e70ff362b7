"""One HTTP call for one response, for a prompt's stage, or for whatever is let out together (`servers.requests`).

    python benchmarks/request_batches.py [--rounds N] [--only real|recording]

The three forms do the same work in turn, round by round; what is printed are medians of N rounds and, beside them, the
median of each round's ratio to `single`.

real       one real SGLang server with a random model of 70 thousand parameters. Wall time of a step, processor time of
           this process and of the server's, and the share of prompt tokens that the server found in its cache.
recording  a server that speaks SGLang's protocol and has a response after a time of its own, on the other core: 0.1 s
           and 10 s for each, and lengths of `rollout_stages` at 1 ms a token, on many and on few slots.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from aiohttp import web
from rich.console import Console
from rich.table import Table
from rollout_controller import AllWrong, PlainServer, pin
from rollout_stages import NUM_PROMPTS, Synthetic

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import request
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import Prompt, StepPrompt

Form = Literal["single", "stage", "step"]
FORMS: tuple[Form, ...] = ("single", "stage", "step")
VOCAB_SIZE, CONTEXT = 128, 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One step: `stages` of four responses each, none of which is right."""

    name: str
    num_prompts: int = 16
    per_stage: int = 4
    stages: int = 1
    prompt_tokens: int = 8
    tokens: int = 6
    slots: int = 512
    most_rounds: int = 99


@dataclass(frozen=True, slots=True)
class Measured:
    wall_s: float
    client_s: float
    server_s: float
    cached_frac: float


REAL = (
    Work(name="64 x 6 tokens"),
    Work(name="256 x 6 tokens", num_prompts=64),
    Work(name="64 x 200 tokens", tokens=200),
    Work(name="64 x 6 tokens, two stages", num_prompts=8, stages=2),
    Work(name="64 x 6 tokens, 16 slots", slots=16),
    Work(name="64 x 6 tokens, prompts of 400", prompt_tokens=400),
    Work(
        name="64 x 50 tokens, prompts of 1,500, 16 a stage",
        num_prompts=4,
        per_stage=16,
        prompt_tokens=1500,
        tokens=50,
    ),
)
RECORDING = (
    Work(name="0.1 s", num_prompts=256, stages=2, tokens=100),
    Work(name="0.1 s, 64 slots", num_prompts=256, stages=2, tokens=100, slots=64),
    Work(name="10 s", num_prompts=64, stages=1, tokens=10_000, most_rounds=3),
    Work(name="lengths that are independent, 256 slots", num_prompts=NUM_PROMPTS, stages=2,
         tokens=1024, slots=256),
    Work(name="lengths that are independent, 1,024 slots", num_prompts=NUM_PROMPTS, stages=2,
         tokens=1024, slots=1024),
    Work(name="lengths of prompts, 1,024 slots", num_prompts=NUM_PROMPTS, stages=2, prompt_tokens=9,
        tokens=1024,
         slots=1024),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("real", "recording"))
    arguments = parser.parse_args()
    if arguments.only != "recording":
        measure_real(arguments.rounds)
    if arguments.only != "real":
        measure_recording(arguments.rounds)


def measure_real(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        server = SglangServer(
            ServersConfig(),
            ServerPlacement(name="bench"),
            model_path=folder,
            dtype="float32",
            is_deterministic=False,
            log_dir=Path(folder),
        )
        server.start()
        try:
            server.wait_ready()
            body = {"new_version": "0", "abort_all_requests": False}
            request("POST", f"{server.url}/update_weight_version", json=body, timeout_s=30)
            processes = [
                process
                for process in psutil.process_iter()
                if os.getpgid(process.pid) == server.process_group
            ]
            compare("real", server, REAL, rounds, lambda: cpu_of(processes))
        finally:
            server.stop()


def cpu_of(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def write_model(folder: Path) -> None:
    """No token ends a response."""
    ensure_torchvision_schemas()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=None,
        dtype="float32",
    )
    Qwen2ForCausalLM(config).float().save_pretrained(folder)


def measure_recording(rounds: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, 1), daemon=True
    )
    process.start()
    pin(0)
    server = PlainServer(ours.recv())
    watched = psutil.Process(process.pid)
    try:
        compare("recording", server, RECORDING, rounds, lambda: cpu_of([watched]))
    finally:
        process.terminate()
        process.join(10)


def compare(
    title: str, server: Any, works: Sequence[Work], rounds: int, server_cpu: Callable[[], float]
) -> None:
    table = Table(
        "work", "form", "wall s", "client CPU s", "server CPU s", "cached",
        "wall / single", "client / single", "server / single", title=f"{title}, {rounds} rounds",
    )  # fmt: skip
    seed = 0
    for work in works:
        times: dict[Form, list[Measured]] = {form: [] for form in FORMS}
        for round_number in range(min(rounds, work.most_rounds) + 1):
            seed += 1
            for turn in range(len(FORMS)):  # each goes first as often as the others
                form = FORMS[(turn + round_number) % len(FORMS)]
                measured = measure(server, work, form, seed=3 * seed + turn, cpu=server_cpu)
                if round_number:  # the first one warms up
                    times[form].append(measured)
        for form in FORMS:
            table.add_row(*row(work, form, times))
    Console(width=180).print(table)


def row(work: Work, form: Form, times: dict[Form, list[Measured]]) -> list[str]:
    names = ("wall_s", "client_s", "server_s")
    values = {n: [getattr(m, n) for m in times[form]] for n in (*names, "cached_frac")}
    base = {n: [getattr(m, n) for m in times["single"]] for n in names}
    ratios = [
        statistics.median(a / max(b, 1e-9) for a, b in zip(values[n], base[n], strict=True))
        for n in names
    ]
    return [
        work.name,
        form,
        *(f"{statistics.median(values[n]):.3f}" for n in names),
        f"{statistics.median(values['cached_frac']):.2f}",
        *(f"{ratio:.3f}" for ratio in ratios),
    ]


def measure(
    server: Any, work: Work, form: Form, *, seed: int, cpu: Callable[[], float]
) -> Measured:
    """Prompts of their own for each step, so that none finds another's in the server's cache."""
    servers = ServersConfig(requests=form, max_concurrent_requests=work.slots)
    engine = SglangEngine([server], servers, vocab_size=VOCAB_SIZE, is_deterministic=False)
    controller = RolloutController(
        engine,
        AllWrong(),
        RolloutConfig(
            num_stages=work.stages,
            responses_per_stage=work.per_stage,
            max_response_tokens=work.tokens,
        ),
        servers,
        run_seed=0,
        stop_token_ids=(),
        max_context_tokens=1 << 20,
        vocab_size=VOCAB_SIZE,
    )
    draw = np.random.default_rng(seed)
    prompts = [
        StepPrompt(
            position=i,
            prompt=Prompt(
                prompt_id=f"{i:032x}",
                token_ids=(i % 100 + 3, *draw.integers(3, 100, work.prompt_tokens - 1).tolist()),
                ground_truth="",
            ),
        )
        for i in range(work.num_prompts)
    ]
    server_s, client_s, started = cpu(), time.process_time(), time.perf_counter()
    groups = controller.collect(prompts, step=1, policy_version=0).groups
    wall_s, client_s = time.perf_counter() - started, time.process_time() - client_s
    server_s = cpu() - server_s
    responses = [scored.response for group in groups for scored in group.responses]
    assert len(responses) == work.num_prompts * work.per_stage * work.stages
    cached = sum(response.num_cached_tokens for response in responses)
    controller.close()
    return Measured(wall_s, client_s, server_s, cached / (len(responses) * work.prompt_tokens))


def serve(connection: Any, core: int) -> None:
    """In a process of its own. The time of a response is told by its limit: up to 1,000 tokens and above 1,024 it is
    1 ms for each, at 1,024 a drawn length, which belongs to its prompt where that has an odd number of tokens."""
    pin(core)
    sets = (Synthetic(0.0), Synthetic(0.6))
    counter = iter(range(1 << 40))

    def length_of(sampling: dict[str, Any], prompt: list[int]) -> int:
        limit = sampling["max_new_tokens"]
        if limit != 1024:
            return limit
        number = next(counter)
        return min(limit, sets[len(prompt) % 2].answer(prompt[0] % NUM_PROMPTS, number)[0])

    def response(rid: str, length: int) -> bytes:
        count = min(length, 64)
        meta = {
            "id": rid,
            "finish_reason": {"type": "stop", "matched": 2},
            "prompt_tokens": 8,
            "completion_tokens": count,
            "cached_tokens": 0,
            "weight_version": "0",
            "output_token_logprobs": [[-0.5, 5, None]] * count,
        }
        return json.dumps({"output_ids": [5] * count, "meta_info": meta}).encode()

    async def generate(call: web.Request) -> web.StreamResponse:
        body = json.loads(await call.read())
        if isinstance(body["rid"], str):
            length = length_of(body["sampling_params"], body["input_ids"])
            await asyncio.sleep(length / 1000)
            return web.Response(body=response(body["rid"], length), content_type="application/json")
        stream = web.StreamResponse()
        await stream.prepare(call)

        async def one(rid: str, prompt: list[int], sampling: dict[str, Any]) -> None:
            length = length_of(sampling, prompt)
            first = {"output_ids": [5], "meta_info": {"id": rid, "finish_reason": None}}
            await stream.write(b"data: " + json.dumps(first).encode() + b"\n\n")
            await asyncio.sleep(length / 1000)
            await stream.write(b"data: " + response(rid, length) + b"\n\n")

        items = zip(body["rid"], body["input_ids"], body["sampling_params"], strict=True)
        await asyncio.gather(*(one(*item) for item in items))
        await stream.write(b"data: [DONE]\n\n")
        return stream

    async def serve_forever() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/generate", generate)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        connection.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve_forever())


if __name__ == "__main__":
    main()
