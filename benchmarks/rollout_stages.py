"""Continuous stages against a barrier after each stage: how long one step's sampling takes.

The real controller with a simulated engine: a request holds one of the slots for as long as its answer has tokens, in
virtual time, so a step of minutes takes milliseconds. Lengths are log-normal up to a cap (truncated answers are wrong),
pass rates follow a U-shaped Beta. The lower bound is max(tokens / slots, longest chain of one prompt); no schedule can
beat it.

    python benchmarks/rollout_stages.py

Columns: `barrier` and `continuous` in a first step, when nothing is known of any prompt; `known` continuous with a
history of 16 answers per prompt; `oracle` a scheduler that knows every length and verdict beforehand and starts the
longest remaining chain first, each as a multiple of the bound. Then servers: local routing (a prompt's server is fixed)
against global (the server with the fewest requests).

Left out: the servers' own speed falls with their batch, prefill costs nothing here, and verdicts are there at once.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megatron_ar3po.config.schema import RolloutConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.history import PromptHistory
from megatron_ar3po.types import (
    Generation,
    GenerationRequest,
    Prompt,
    Response,
    ResponseGroup,
    StepPrompt,
    Verdict,
)

NUM_PROMPTS = 256
RESPONSES_PER_STAGE = 4
SLOTS = (128, 256, 512, 1024, 2048, 8192)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Whoever would wait finds the time gone by already."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        select = selector.select
        self.now = 0.0

        def skip(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        selector.select = skip  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class VirtualTimePolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualTimeLoop()


@dataclass
class SimulatedEngine:
    """One token a second and slot; the slots are shared out over the servers, each of which queues what is beyond."""

    cap: int
    slots: int
    num_servers: int = 1
    routing: str = "local"
    servers: list[asyncio.Semaphore] = field(default_factory=list)
    load: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.load = [0] * self.num_servers

    def server_of(self, request: GenerationRequest) -> int:
        if self.routing == "global":
            return min(range(self.num_servers), key=lambda i: self.load[i])
        prompt = np.asarray(request.prompt_token_ids, dtype=np.int32)
        return zlib.crc32(prompt.tobytes()) % self.num_servers

    async def generate(self, request: GenerationRequest) -> Generation:
        if not self.servers:
            each = self.slots // self.num_servers
            self.servers = [asyncio.Semaphore(each) for _ in range(self.num_servers)]
        length = length_of(request.seed, self.cap)
        server = self.server_of(request)
        self.load[server] += 1
        async with self.servers[server]:
            await asyncio.sleep(length)
        self.load[server] -= 1
        return Generation(
            token_ids=np.zeros(length, dtype=np.int32),
            logprobs=np.zeros(length, dtype=np.float32),
            finish_reason="length" if length == self.cap else "stop",
            policy_version=0,
            server=f"s{server}",
        )

    async def abort(self, request_id: str) -> None:
        raise NotImplementedError("nothing is aborted here")

    async def repair_all(self) -> None:
        return None

    async def close(self) -> None:
        return None


class SimulatedVerifier:
    version = "simulated"

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        luck = response.seed * 2654435761 % 2**31 / 2**31
        if response.finish_reason == "stop" and luck < float(prompt.ground_truth):
            return Verdict(reward=1.0, status="correct")
        return Verdict(reward=0.0, status="incorrect")

    def close(self) -> None:
        return None


def length_of(seed: int, cap: int) -> int:
    return int(min(cap, max(8, np.random.default_rng(seed).lognormal(6.0, 0.8))))


def prompts() -> list[StepPrompt]:
    rates = np.random.default_rng(0).beta(0.4, 0.6, NUM_PROMPTS)
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2, i), ground_truth=f"{rate:.6f}"),
        )
        for i, rate in enumerate(rates)
    ]


def earlier_steps() -> PromptHistory:
    """16 answers of each prompt, drawn from its pass rate; lengths say nothing, they are alike for all."""
    history, draw = PromptHistory(decay=1.0), np.random.default_rng(1)
    history.replay(
        {
            "kind": "prompt",
            "prompt_id": p.prompt.prompt_id,
            "responses": 16,
            "correct": int(draw.binomial(16, float(p.prompt.ground_truth))),
            "response_tokens": 16 * 400,
            "cancelled": 0,
            "cancelled_tokens": 0,
        }
        for p in prompts()
    )
    return history


def makespan(
    scheduling: Any,
    slots: int,
    stages: int,
    cap: int,
    *,
    history: PromptHistory | None = None,
    num_servers: int = 1,
    routing: str = "local",
) -> tuple[float, list[ResponseGroup]]:
    """(seconds of virtual time, what was sampled)."""
    config = RolloutConfig(
        num_stages=stages,
        responses_per_stage=RESPONSES_PER_STAGE,
        stage_scheduling=scheduling,
        max_concurrent_requests=slots,
        max_response_tokens=cap,
        prompts_per_step=NUM_PROMPTS,
    )
    controller = RolloutController(
        SimulatedEngine(cap, slots, num_servers, routing),
        SimulatedVerifier(),
        config,
        run_seed=0,
        stop_token_ids=(),
        max_context_tokens=cap + 64,
        vocab_size=NUM_PROMPTS + 8,
        history=history,
    )
    groups = controller.collect(prompts(), step=1, policy_version=0)
    seconds = controller._loop.time()
    controller.close()
    return seconds, groups


def stages_of(group: ResponseGroup) -> list[list[int]]:
    """Lengths by stage."""
    lengths: list[list[int]] = [[] for _ in range(group.num_stages)]
    for scored in group.responses:
        lengths[scored.response.stage - 1].append(scored.response.num_tokens)
    return lengths


def lower_bound(groups: list[ResponseGroup], slots: int) -> float:
    work = [stages_of(group) for group in groups]
    tokens = sum(sum(map(sum, stages)) for stages in work)
    return max(tokens / slots, max(sum(map(max, stages)) for stages in work))


def oracle(groups: list[ResponseGroup], slots: int) -> float:
    """The same work, begun in the order of the longest remaining chain, all of it known beforehand."""
    work = [stages_of(group) for group in groups]
    now, free, running = 0.0, slots, []
    waiting: list[tuple[float, int, int, int]] = []
    left: dict[tuple[int, int], int] = {}

    def open_stage(i: int, stage: int) -> None:
        after = sum(map(max, work[i][stage + 1 :]))
        left[i, stage] = len(work[i][stage])
        for length in work[i][stage]:
            heapq.heappush(waiting, (-(length + after), i, stage, length))

    for i in range(len(work)):
        open_stage(i, 0)
    while waiting or running:
        while waiting and free:
            _, i, stage, length = heapq.heappop(waiting)
            heapq.heappush(running, (now + length, i, stage))
            free -= 1
        now, i, stage = heapq.heappop(running)
        free += 1
        left[i, stage] -= 1
        if not left[i, stage] and stage + 1 < len(work[i]):
            open_stage(i, stage + 1)
    return now


def stage_table() -> None:
    print(f"{NUM_PROMPTS} prompts, stages of {RESPONSES_PER_STAGE}; one token a second and slot")
    print(
        f"{'slots':>6} {'S':>2} {'cap':>6} {'barrier':>9} {'continuous':>11} {'gain':>6} {'x bound':>8} "
        f"{'known':>7} {'oracle':>7}"
    )
    met = cells = met_known = 0
    for slots in SLOTS:
        for stages in (2, 3, 4):
            for cap in (1024, 4096):
                barrier, _ = makespan("barrier", slots, stages, cap)
                continuous, groups = makespan("continuous", slots, stages, cap)
                known, _ = makespan("continuous", slots, stages, cap, history=earlier_steps())
                assert continuous <= barrier, "continuous stages were slower than a barrier"
                bound = lower_bound(groups, slots)
                cells += 1
                met += continuous <= 1.05 * bound
                met_known += known <= 1.05 * bound
                print(
                    f"{slots:6} {stages:2} {cap:6} {barrier:8.0f}s {continuous:10.0f}s "
                    f"{barrier / continuous:6.2f} {continuous / bound:8.3f} {known / bound:7.3f} "
                    f"{oracle(groups, slots) / bound:7.3f}",
                    flush=True,
                )
    print(
        f"within 1.05 of the bound: {met} of {cells} cells, {met_known} with known pass rates; "
        "never slower than a barrier"
    )


def server_table() -> None:
    print(f"\nservers that share {SLOTS[1]} slots, S = 2, cap 1024, nothing known")
    print(f"{'servers':>8} {'local':>9} {'global':>9} {'local / global':>15}")
    for num_servers in (1, 8, 64):
        times = [
            makespan("continuous", SLOTS[1], 2, 1024, num_servers=num_servers, routing=routing)[0]
            for routing in ("local", "global")
        ]
        print(f"{num_servers:8} {times[0]:8.0f}s {times[1]:8.0f}s {times[0] / times[1]:15.2f}")


def main() -> None:
    asyncio.set_event_loop_policy(VirtualTimePolicy())
    stage_table()
    server_table()


if __name__ == "__main__":
    main()
