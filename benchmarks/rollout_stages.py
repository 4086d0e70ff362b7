"""Continuous stages against a barrier after each stage: how long one step's sampling takes.

The real controller with a simulated engine: a request holds one of the slots for as long as its answer has tokens, in
virtual time, so a step of minutes takes milliseconds. The lower bound is max(tokens / slots, longest chain of one
prompt); no schedule can beat it.

    python benchmarks/rollout_stages.py [--quick]

Three sets of prompts:
  independent   every length log-normal, whatever the prompt; pass rates U-shaped (Beta(0.4, 0.6))
  by prompt     60 % of the variance of log-length lies between prompts, hard prompts are longer; the same pass rates
  recorded      lengths and verdicts of a real run, data/rollout_recorded.jsonl: 16 responses each of 256 prompts, of
                which 8 are what is known and 8 what is drawn. Lengths are at most 24 tokens

An answer that reaches the cap is cut off there and wrong. Columns: `barrier` and `contin.` in a first step, when
nothing is known of any prompt, and their ratio; `x bound` for the latter; `known` continuous with a history of 16
answers (8 recorded ones) per prompt; `idle` the share of slot-time that `known` leaves unused, `tail` the part of the
step that is left when its last request begins; `oracle` a scheduler that knows every length and verdict beforehand and
starts the longest remaining chain first. `x bound`, `known` and `oracle` are multiples of the bound.

Then the floor of one stage, over 20 draws: lengths that are alike for all one knows make every order alike, so that no
schedule that does not know them can be better on average. Then servers: local routing (a prompt's server is fixed)
against global (the server with the fewest requests).

Left out: the servers' own speed falls with their batch, prefill costs nothing here, and verdicts are there at once.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import selectors
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.types import (
    Generation,
    GenerationRequest,
    Prompt,
    Response,
    ResponseGroup,
    Scoring,
    ScoringRequest,
    StepPrompt,
    Verdict,
)

NUM_PROMPTS = 256
RESPONSES_PER_STAGE = 4
SLOTS = (128, 256, 512, 1024, 2048, 8192)
CAPS = (1024, 4096)
RECORDED = Path(__file__).with_name("data") / "rollout_recorded.jsonl"


class Prompts(Protocol):
    """Where lengths and verdicts come from; a function of prompt and seed alone."""

    num_known: int  # answers per prompt that are known in a later step

    def answer(self, prompt: int, seed: int) -> tuple[int, bool]:
        """(length without a cap, whether it is correct if it is whole)."""
        ...

    def earlier_responses(self, prompt: int) -> list[tuple[int, bool]]: ...


class Synthetic:
    num_known = 16

    def __init__(self, between: float) -> None:
        """`between`: the share of the variance of log-length that lies between prompts."""
        draw = np.random.default_rng(0)
        self.rates = draw.beta(0.4, 0.6, NUM_PROMPTS)
        hard = (self.rates.mean() - self.rates) / self.rates.std()
        own = 0.7 * hard + np.sqrt(1 - 0.7**2) * draw.standard_normal(NUM_PROMPTS)
        self.means = 6.0 + 0.8 * np.sqrt(between) * own
        self.sigma = 0.8 * np.sqrt(1 - between)

    def answer(self, prompt: int, seed: int) -> tuple[int, bool]:
        length = np.random.default_rng(seed).lognormal(self.means[prompt], self.sigma)
        luck = seed * 2654435761 % 2**31 / 2**31
        return int(max(8, length)), luck < self.rates[prompt]

    def earlier_responses(self, prompt: int) -> list[tuple[int, bool]]:
        return [self.answer(prompt, 2**31 + 64 * prompt + i) for i in range(self.num_known)]


class Recorded:
    num_known = 8

    def __init__(self, path: Path) -> None:
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(self.rows) == NUM_PROMPTS

    def answer(self, prompt: int, seed: int) -> tuple[int, bool]:
        answers = self.rows[prompt]["drawn"]
        length, is_correct = answers[seed % len(answers)]
        return length, bool(is_correct)

    def earlier_responses(self, prompt: int) -> list[tuple[int, bool]]:
        return [(length, bool(is_correct)) for length, is_correct in self.rows[prompt]["known"]]


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

    source: Prompts
    cap: int
    slots: int
    num_servers: int = 1
    routing: str = "local"
    servers: list[asyncio.Semaphore] = field(default_factory=list)
    load: list[int] = field(default_factory=list)
    last_start: float = 0.0

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
        length = min(self.cap, self.source.answer(request.prompt_token_ids[2], request.seed)[0])
        server = self.server_of(request)
        self.load[server] += 1
        async with self.servers[server]:
            self.last_start = asyncio.get_running_loop().time()
            await asyncio.sleep(length)
        self.load[server] -= 1
        return Generation(
            token_ids=np.zeros(length, dtype=np.int32),
            logprobs=np.zeros(length, dtype=np.float32),
            finish_reason="length" if length == self.cap else "stop",
            policy_version=0,
            server=f"s{server}",
        )

    async def score(self, request: ScoringRequest) -> Scoring:
        raise NotImplementedError("nothing is scored here")

    async def abort(self, request_id: str) -> None:
        raise NotImplementedError("nothing is aborted here")

    async def num_in_flight_of_others(self) -> int | None:
        return None

    async def repair_all(self) -> None:
        return None

    async def close(self) -> None:
        return None


class SimulatedVerifier:
    version = "simulated"

    def __init__(self, source: Prompts) -> None:
        self._source = source

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        is_correct = self._source.answer(prompt.token_ids[2], response.seed)[1]
        if response.finish_reason == "stop" and is_correct:
            return Verdict(reward=1.0, status="correct")
        return Verdict(reward=0.0, status="incorrect")

    def close(self) -> None:
        return None


@cache
def prompts() -> list[StepPrompt]:
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2, i), ground_truth=""),
        )
        for i in range(NUM_PROMPTS)
    ]


def earlier_steps(source: Prompts, cap: int) -> PromptHistory:
    history = PromptHistory(decay=1.0)
    for p in prompts():
        answers = source.earlier_responses(p.position)
        row = {
            "kind": "prompt",
            "prompt_id": p.prompt.prompt_id,
            "responses": len(answers),
            "correct": sum(correct and length < cap for length, correct in answers),
            "response_tokens": sum(min(cap, length) for length, _ in answers),
            "cancelled": 0,
            "cancelled_tokens": 0,
        }
        history.replay([row])
    return history


@dataclass(frozen=True)
class Step:
    """One simulated step: seconds of virtual time, when its last request began, and what was sampled."""

    seconds: float
    last_start: float
    groups: Sequence[ResponseGroup]

    def idle_frac(self, slots: int) -> float:
        tokens = sum(r.response.num_tokens for g in self.groups for r in g.responses)
        return 1 - tokens / (slots * self.seconds)

    @property
    def tail_frac(self) -> float:
        return 1 - self.last_start / self.seconds


def simulate(
    source: Prompts,
    scheduling: Any,
    slots: int,
    stages: int,
    cap: int,
    *,
    history: PromptHistory | None = None,
    num_servers: int = 1,
    routing: str = "local",
    run_seed: int = 0,
) -> Step:
    config = RolloutConfig(
        num_stages=stages,
        responses_per_stage=RESPONSES_PER_STAGE,
        stage_scheduling=scheduling,
        max_response_tokens=cap,
        prompts_per_step=NUM_PROMPTS,
    )
    engine = SimulatedEngine(source, cap, slots, num_servers, routing)
    controller = RolloutController(
        engine,
        SimulatedVerifier(source),
        config,
        ServersConfig(max_concurrent_requests=slots),
        run_seed=run_seed,
        stop_token_ids=(),
        max_context_tokens=cap + 64,
        vocab_size=NUM_PROMPTS + 8,
        history=history,
    )
    groups = controller.collect(prompts(), step=1, policy_version=0).groups
    seconds = controller._loop.time()
    controller.close()
    return Step(seconds, engine.last_start, groups)


def stages_of(group: ResponseGroup) -> list[list[int]]:
    """Lengths by stage."""
    lengths: list[list[int]] = [[] for _ in range(group.num_stages)]
    for scored in group.responses:
        lengths[scored.response.stage - 1].append(scored.response.num_tokens)
    return lengths


def lower_bound(groups: Sequence[ResponseGroup], slots: int) -> float:
    work = [stages_of(group) for group in groups]
    tokens = sum(sum(map(sum, stages)) for stages in work)
    return max(tokens / slots, max(sum(map(max, stages)) for stages in work))


def oracle(groups: Sequence[ResponseGroup], slots: int) -> float:
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


def stage_table(name: str, source: Prompts, slot_numbers: tuple[int, ...], caps: tuple) -> None:
    print(
        f"\n{name}: {NUM_PROMPTS} prompts, stages of {RESPONSES_PER_STAGE}, one token a second and slot"
    )
    print(
        f"{'slots':>6} {'S':>2} {'cap':>6} {'barrier':>9} {'contin.':>9} {'gain':>6} {'x bound':>8} {'known':>7} "
        f"{'idle':>6} {'tail':>6} {'oracle':>7}"
    )
    met = met_known = cells = 0
    for slots in slot_numbers:
        for stages in (2, 3, 4):
            for cap in caps:
                barrier = simulate(source, "barrier", slots, stages, cap)
                free = simulate(source, "continuous", slots, stages, cap)
                history = earlier_steps(source, cap)
                known = simulate(source, "continuous", slots, stages, cap, history=history)
                assert free.seconds <= barrier.seconds, (
                    "continuous stages were slower than a barrier"
                )
                bound = lower_bound(free.groups, slots)
                cells += 1
                met += free.seconds <= 1.05 * bound
                met_known += known.seconds <= 1.05 * bound
                print(
                    f"{slots:6} {stages:2} {cap:6} {barrier.seconds:8.0f}s {free.seconds:8.0f}s "
                    f"{barrier.seconds / free.seconds:6.2f} {free.seconds / bound:8.3f} "
                    f"{known.seconds / bound:7.3f} {known.idle_frac(slots):6.0%} {known.tail_frac:6.0%} "
                    f"{oracle(free.groups, slots) / bound:7.3f}",
                    flush=True,
                )
    print(
        f"within 1.05 of the bound: {met} of {cells} cells, {met_known} with known prompts; never slower than a barrier"
    )


def floor_table(num_draws: int) -> None:
    """One stage of independent lengths: any order of the requests has the same distribution."""
    print(f"\nthe floor: one stage, independent lengths, x bound over {num_draws} draws")
    print(f"{'slots':>6} {'cap':>6} {'mean':>6} {'least':>6} {'most':>6}")
    source = Synthetic(between=0.0)
    for slots in SLOTS[:4]:
        for cap in CAPS:
            ratios = []
            for seed in range(num_draws):
                step = simulate(source, "continuous", slots, 1, cap, run_seed=seed)
                ratios.append(step.seconds / lower_bound(step.groups, slots))
            mean = sum(ratios) / num_draws
            print(
                f"{slots:6} {cap:6} {mean:6.3f} {min(ratios):6.3f} {max(ratios):6.3f}", flush=True
            )


def server_table(slot_numbers: tuple[int, ...]) -> None:
    print("\nservers that share the slots, S = 2, cap 1024, by prompt, nothing known")
    print(f"{'slots':>6} {'servers':>8} {'local':>9} {'global':>9} {'local / global':>15}")
    source = Synthetic(between=0.6)
    for slots in slot_numbers:
        for servers in (1, 8, 64):
            local, routed = (
                simulate(
                    source, "continuous", slots, 2, 1024, num_servers=servers, routing=routing
                ).seconds
                for routing in ("local", "global")
            )
            print(f"{slots:6} {servers:8} {local:8.0f}s {routed:8.0f}s {local / routed:15.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two slot numbers, three draws")
    arguments = parser.parse_args()
    slot_numbers = SLOTS[1:3] if arguments.quick else SLOTS
    asyncio.set_event_loop_policy(VirtualTimePolicy())
    stage_table("independent", Synthetic(between=0.0), slot_numbers, CAPS)
    stage_table("by prompt", Synthetic(between=0.6), slot_numbers, CAPS)
    stage_table("recorded", Recorded(RECORDED), slot_numbers, (24,))
    floor_table(3 if arguments.quick else 20)
    server_table(slot_numbers)


if __name__ == "__main__":
    main()
