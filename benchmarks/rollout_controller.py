"""The controller against a bare asynchronous client: the same requests, the same server, the same verifier.

    python benchmarks/rollout_controller.py [--rounds N] [--many N] [--delay-s S] [--only-throughput]

The server is another process that speaks SGLang's protocol and answers with 64 tokens after S = 0.1 s; controller and
client are pinned to one core, the server to another. The bare client posts with aiohttp, decodes the JSON, and calls
the verifier: no stages, no checks, no retries, no ledger. Then the controller's own cost, without HTTP and JSON: CPU
seconds per response with an engine that answers at once; and the memory of many responses in one step.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.types import (
    Generation,
    GenerationRequest,
    Prompt,
    Response,
    StepPrompt,
    Verdict,
)

NUM_TOKENS, IN_FLIGHT = 64, 64
PROMPTS, PER_PROMPT = 256, 8


def serve(connection: Any, core: int, delay_s: float) -> None:
    """In a process of its own."""
    pin(core)
    entries = [[-0.5, 5, None]] * NUM_TOKENS
    meta = {
        "finish_reason": {"type": "length", "length": NUM_TOKENS},
        "prompt_tokens": 8,
        "completion_tokens": NUM_TOKENS,
        "cached_tokens": 0,
        "weight_version": "0",
        "output_token_logprobs": entries,
    }
    before, after = json.dumps(
        {"output_ids": [5] * NUM_TOKENS, "meta_info": {"id": "RID", **meta}}
    ).split("RID")

    async def generate(request: web.Request) -> web.Response:
        rid = json.loads(await request.read())["rid"]
        await asyncio.sleep(delay_s)
        return web.Response(text=before + rid + after, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/generate", generate)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        connection.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


class PlainServer:
    name, num_restarts = "dp0.s0", 0

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def is_running(self) -> bool:
        return True

    def log_tail(self) -> str:
        return ""


class AllWrong:
    version = "1"

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        return Verdict(reward=0.0, status="incorrect")

    def close(self) -> None:
        return None


class InstantEngine:
    """Answers at once; every answer has tokens of its own, as real ones have."""

    async def generate(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(0)
        return Generation(
            token_ids=np.full(NUM_TOKENS, 5, dtype=np.int32),
            logprobs=np.full(NUM_TOKENS, -0.5, dtype=np.float32),
            finish_reason="length",
            policy_version=0,
            server="s",
        )

    async def abort(self, request_id: str) -> None:
        return None

    async def num_in_flight_of_others(self) -> int | None:
        return None

    async def repair_all(self) -> None:
        return None

    async def close(self) -> None:
        return None


def prompts(count: int) -> list[StepPrompt]:
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(
                prompt_id=f"{i:032x}", token_ids=(1, 2, 3, 4, 5, 6, 7, i % 9), ground_truth=""
            ),
        )
        for i in range(count)
    ]


def controller_of(engine: Any, in_flight: int) -> RolloutController:
    config = RolloutConfig(
        num_stages=2,
        responses_per_stage=PER_PROMPT // 2,
        max_response_tokens=NUM_TOKENS,
    )
    return RolloutController(
        engine,
        AllWrong(),
        config,
        ServersConfig(max_concurrent_requests=in_flight),
        run_seed=0,
        stop_token_ids=(2,),
        max_context_tokens=4096,
        vocab_size=64,
    )


async def bare(url: str, wanted: list[StepPrompt]) -> None:
    verifier, slots = AllWrong(), asyncio.Semaphore(IN_FLIGHT)
    parameters = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": NUM_TOKENS}

    async def one(session: aiohttp.ClientSession, step_prompt: StepPrompt, index: int) -> Any:
        rid = f"s1.p{step_prompt.position}.{index}"
        body = {
            "rid": rid,
            "input_ids": list(step_prompt.prompt.token_ids),
            "sampling_params": {**parameters, "stop_token_ids": [2]},
            "return_logprob": True,
        }
        async with slots, session.post(url + "/generate", json=body) as answer:
            decoded = json.loads(await answer.read())
        return await verifier.verify(step_prompt.prompt, decoded)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session, p, i) for p in wanted for i in range(PER_PROMPT)))


def throughput(rounds: int, delay_s: float) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, 1, delay_s), daemon=True
    )
    server.start()
    pin(0)
    plain = PlainServer(ours.recv())
    config = ServersConfig(requests="single")  # as the bare client
    engine = SglangEngine([plain], config, vocab_size=64, is_deterministic=False)
    controller = controller_of(engine, IN_FLIGHT)
    wanted = prompts(PROMPTS)
    ratios, rates, costs, bare_costs = [], [], [], []
    for round_number in range(rounds + 1):
        started = time.perf_counter()
        bare_cpu = time.process_time()
        asyncio.run(bare(plain.url, wanted))
        bare_s, bare_cpu = time.perf_counter() - started, time.process_time() - bare_cpu
        started, cpu = time.perf_counter(), time.process_time()
        controller.collect(wanted, step=1, policy_version=0)
        controller_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        if round_number:  # the first one warms up
            ratios.append(bare_s / controller_s)
            rates.append(PROMPTS * PER_PROMPT / controller_s)
            costs.append(1e3 * cpu_s / (PROMPTS * PER_PROMPT))
            bare_costs.append(1e3 * bare_cpu / (PROMPTS * PER_PROMPT))
    controller.close()
    server.terminate()
    server.join(10)
    print(
        f"throughput: {statistics.median(rates):.0f} responses/s, {IN_FLIGHT} in flight, {delay_s:g} s each, load "
        f"average {os.getloadavg()[0]:.0f}: "
        f"{statistics.median(ratios):.3f} of the bare client (median of {rounds}: "
        f"{min(ratios):.3f} to {max(ratios):.3f}; target >= 0.95)"
    )
    print(
        f"CPU per response with HTTP and JSON: {statistics.median(costs):.3f} ms, "
        f"{statistics.median(bare_costs):.3f} ms for the bare client"
    )


def own_cost(num_responses: int) -> None:
    wanted = prompts(num_responses // PER_PROMPT)
    controller = controller_of(InstantEngine(), 1024)
    cpu = time.process_time()
    groups = controller.collect(wanted, step=1, policy_version=0).groups
    cpu_s = time.process_time() - cpu
    count = sum(len(group.responses) for group in groups)
    controller.close()
    print(f"CPU per response without: {1e3 * cpu_s / count:.3f} ms over {count:,} (target <= 0.3)")


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory_of_a_step(num_responses: int) -> float:
    """Resident bytes per response that a step adds to a fresh process, what it had in flight included."""
    controller = controller_of(InstantEngine(), 1024)
    controller.collect(prompts(16), step=1, policy_version=0)
    before = resident_bytes()
    groups = controller.collect(
        prompts(num_responses // PER_PROMPT), step=2, policy_version=0
    ).groups
    count = sum(len(group.responses) for group in groups)
    return (resident_bytes() - before) / count


def memory(num_responses: int) -> None:
    sizes = (num_responses // 4, num_responses)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        small, large = pool.map(memory_of_a_step, sizes, chunksize=1)
    print(
        f"resident memory per response, of which {NUM_TOKENS * 8} bytes are its tokens and log-probs: {small:.0f} "
        f"bytes with {sizes[0]:,} in one step, {large:.0f} with {sizes[1]:,}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--delay-s", type=float, default=0.1)
    parser.add_argument("--only-throughput", action="store_true")
    arguments = parser.parse_args()
    throughput(arguments.rounds, arguments.delay_s)
    if arguments.only_throughput:
        return
    own_cost(20_000)
    memory(arguments.many)


if __name__ == "__main__":
    main()
