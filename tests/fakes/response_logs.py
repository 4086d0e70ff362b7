"""Rollouts that are killed in the middle and done again: engines, controllers and logs for their tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fakes.rollout_engine import FakeRolloutEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.response_log import ResponseLogFolder
from megatron_ar3po.types import Generation, GenerationRequest, Prompt, ResponseGroup, StepPrompt


@dataclass
class SeededEngine(FakeRolloutEngine):
    """One to six tokens with uneven log-probs, all from the seed; an error in the place of answer number
    `dies_after`."""

    dies_after: int | None = None

    async def generate(self, request: GenerationRequest) -> Generation:
        generation = await super().generate(request)
        if self.dies_after is not None and len(self.finished) > self.dies_after:
            raise RolloutEngineError("killed")
        numbers = np.random.default_rng(request.seed)
        length = int(numbers.integers(1, 7))
        return replace(
            generation,
            token_ids=numbers.integers(4, 64, length).astype(np.int32),
            logprobs=-numbers.random(length, dtype=np.float32),
            num_cached_tokens=int(numbers.integers(0, 3)),
            elapsed_s=float(numbers.random()),
        )


def right_by_chance(prompt: Prompt, response: Any) -> bool:
    """One in four, by its tokens."""
    return int(response.token_ids.sum()) % 4 == 0


def step_prompts(count: int) -> list[StepPrompt]:
    """Prompt i belongs to replica i modulo the data-parallel size."""
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(
                prompt_id=f"{i:016x}" * 2, token_ids=(1, 2 + i), ground_truth=str(i), text=f"p{i}"
            ),
        )
        for i in range(count)
    ]


def open_log(
    folder: Path, *, dp_rank: int = 0, dp_size: int = 1, **options: Any
) -> ResponseLogFolder:
    layout = ParallelLayout(world_size=dp_size, rank=dp_rank)
    return ResponseLogFolder(
        folder, layout, **{"settings": "settings", "grading": "grading", **options}
    )


def make_controller(
    engine: Any,
    log: ResponseLogFolder | None = None,
    *,
    verifier: FakeVerifier | None = None,
    num_slots: int = 4,
    **options: Any,
) -> RolloutController:
    config = RolloutConfig(
        **{"num_stages": 3, "responses_per_stage": 2, "max_response_tokens": 64, **options}
    )
    return RolloutController(
        engine,
        verifier or FakeVerifier(right_by_chance),
        config,
        ServersConfig(max_concurrent_requests=num_slots),
        run_seed=7,
        stop_token_ids=(3,),
        max_context_tokens=1024,
        vocab_size=64,
        log=log,
    )


def contents(groups: Sequence[ResponseGroup]) -> list[Any]:
    """All that is known of groups, the bits of log-probs included, in a form that can be compared."""
    return [
        (
            group.position,
            group.stop_reason,
            [
                (
                    scored.verdict,
                    scored.origin,
                    scored.response.token_ids.tolist(),
                    scored.response.logprobs.tobytes(),
                    replace(scored.response, token_ids=None, logprobs=None),  # type: ignore[arg-type]
                )
                for scored in group.responses
            ],
        )
        for group in groups
    ]
