"""Continuous stages against a barrier after each stage: how long one step's sampling takes.

The real controller with a simulated engine: a request holds one of the slots for as long as its answer has tokens, in
virtual time, so a step of minutes takes milliseconds. Lengths are log-normal up to a cap (truncated answers are wrong),
pass rates follow a U-shaped Beta. The lower bound is max(tokens / slots, longest chain of one prompt); no schedule can
beat it.

    python benchmarks/rollout_stages.py

Left out: the servers' own speed falls with their batch, prefill costs nothing here, and verdicts are there at once.
"""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_ar3po.config.schema import RolloutConfig
from megatron_ar3po.rollout.controller import RolloutController
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
    """One token a second."""

    cap: int

    async def generate(self, request: GenerationRequest) -> Generation:
        draw = np.random.default_rng(request.seed)
        length = int(min(self.cap, max(8, draw.lognormal(6.0, 0.8))))
        await asyncio.sleep(length)
        return Generation(
            token_ids=np.zeros(length, dtype=np.int32),
            logprobs=np.zeros(length, dtype=np.float32),
            finish_reason="length" if length == self.cap else "stop",
            policy_version=0,
            server="simulated",
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


def prompts() -> list[StepPrompt]:
    rates = np.random.default_rng(0).beta(0.4, 0.6, NUM_PROMPTS)
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2), ground_truth=f"{rate:.6f}"),
        )
        for i, rate in enumerate(rates)
    ]


def makespan(scheduling: Any, slots: int, stages: int, cap: int) -> tuple[float, float]:
    """(seconds of virtual time, lower bound)."""
    config = RolloutConfig(
        num_stages=stages,
        responses_per_stage=RESPONSES_PER_STAGE,
        stage_scheduling=scheduling,
        max_concurrent_requests=slots,
        max_response_tokens=cap,
    )
    controller = RolloutController(
        SimulatedEngine(cap),
        SimulatedVerifier(),
        config,
        run_seed=0,
        stop_token_ids=(),
        max_context_tokens=cap + 64,
        vocab_size=8,
    )
    groups = controller.collect(prompts(), step=1, policy_version=0)
    seconds = controller._loop.time()
    controller.close()
    return seconds, lower_bound(groups, slots)


def lower_bound(groups: list[ResponseGroup], slots: int) -> float:
    tokens = sum(r.response.num_tokens for g in groups for r in g.responses)
    chains = []
    for group in groups:
        longest: dict[int, int] = {}
        for scored in group.responses:
            stage = scored.response.stage
            longest[stage] = max(longest.get(stage, 0), scored.response.num_tokens)
        chains.append(sum(longest.values()))
    return max(tokens / slots, max(chains))


def main() -> None:
    asyncio.set_event_loop_policy(VirtualTimePolicy())
    print(f"{NUM_PROMPTS} prompts, stages of {RESPONSES_PER_STAGE}; one token a second and slot")
    print(
        f"{'slots':>6} {'S':>2} {'cap':>6} {'barrier':>9} {'continuous':>11} {'gain':>6} {'over bound':>11}"
    )
    for slots in (128, 512, 2048):
        for stages in (2, 3, 4):
            for cap in (1024, 4096):
                barrier, _ = makespan("barrier", slots, stages, cap)
                continuous, bound = makespan("continuous", slots, stages, cap)
                print(
                    f"{slots:6} {stages:2} {cap:6} {barrier:8.0f}s {continuous:10.0f}s "
                    f"{barrier / continuous:6.2f} {continuous / bound:11.3f}"
                )


if __name__ == "__main__":
    main()
