"""`PromptRollout`: one prompt on its way through the stages of one step; and the two ways to run many of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from megatron_ar3po.async_tasks import end, gather
from megatron_ar3po.prompt_record import StageOutcome
from megatron_ar3po.rollout.draws import Cancellation, CancelStats, Draw, response_seed
from megatron_ar3po.rollout.stage_plans import StageRule
from megatron_ar3po.rollout.token_budget import TokenBudget
from megatron_ar3po.types import (
    Prompt,
    Response,
    ResponseGroup,
    SamplingParams,
    ScoredResponse,
    StepPrompt,
)


class Sampler(Protocol):
    """The controller, as a prompt sees it."""

    async def draw(
        self, draw: Draw, cancellation: Cancellation | None = None
    ) -> ScoredResponse | None:
        """One response, sampled and graded; None for one that was cancelled before it was sent."""
        ...

    async def cancel(self, cancellation: Cancellation) -> None: ...

    def find_winner(self, draws: Sequence[Draw]) -> ScoredResponse | None:
        """Of one stage's draws: the first correct response that a process before this one was given, if it cancelled
        others then."""
        ...


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What all prompts of one rollout share."""

    sampler: Sampler
    rule: StageRule
    sampling: SamplingParams
    budget: TokenBudget
    run_seed: int
    step: int
    policy_version: int
    urgency: Callable[
        [Prompt, int], float
    ]  # of a prompt and its unsolved stages; the highest goes first
    cancel_solved: bool = False
    cancelled_counts_as: str = "nothing"
    cancels: CancelStats = field(default_factory=CancelStats)


class PromptRollout:
    def __init__(self, context: StepContext, step_prompt: StepPrompt) -> None:
        self._context = context
        self._step_prompt = step_prompt
        self._scored: list[ScoredResponse] = []
        self._left_out: list[ScoredResponse] = []
        self._stages: list[StageOutcome] = []
        self._stop_reason = ""

    @property
    def is_done(self) -> bool:
        return bool(self._stop_reason)

    async def run_to_its_end(self) -> None:
        while not self.is_done:
            await self.run_stage()

    async def run_stage(self) -> None:
        """Nothing when there is none left, or when the step's tokens are spoken for. A stage with responses for which
        the verifier failed is decided on the others."""
        context = self._context
        stage = len(self._stages) + 1
        size = self._next_stage_size()
        limit = context.sampling.max_response_tokens
        if not size or not context.budget.reserve(size, limit, is_first=stage == 1):
            self._stop("token_cap" if size else "stages_done")
            return
        urgency = context.urgency(self._step_prompt.prompt, stage - 1)
        draws = [self._draw(stage, index, urgency) for index in range(size)]
        if context.cancel_solved:
            scored = await self._sample_until_solved(draws)
        else:
            scored = await gather(self._sample_and_grade(draw) for draw in draws)
        graded = [response for response in scored if response.is_graded]
        self._scored += graded
        self._left_out += [response for response in scored if not response.is_graded]
        whole = [scored for scored in graded if scored.response.finish_reason != "abort"]
        self._stages.append(StageOutcome(len(whole), sum(s.is_correct for s in whole)))
        if not self._next_stage_size():
            self._stop("solved" if any(s.correct for s in self._stages) else "stages_done")

    def group(self) -> ResponseGroup:
        return ResponseGroup(
            position=self._step_prompt.position,
            prompt=self._step_prompt.prompt,
            responses=tuple(self._scored),
            stop_reason=self._stop_reason,
            left_out=tuple(self._left_out),
        )

    def _next_stage_size(self) -> int:
        return self._context.rule.next_stage_size(self._step_prompt.prompt, self._stages)

    def _stop(self, reason: str) -> None:
        self._stop_reason = reason

    async def _sample_and_grade(
        self, draw: Draw, cancellation: Cancellation | None = None
    ) -> ScoredResponse | None:
        scored = await self._context.sampler.draw(draw, cancellation)
        tokens = scored.response.num_generated_tokens if scored is not None else 0
        self._context.budget.settle(draw.sampling.max_response_tokens, tokens)
        return scored

    async def _sample_until_solved(self, draws: Sequence[Draw]) -> list[ScoredResponse]:
        """Early cancel: at the first correct answer the others are aborted. One that finished all the same is graded
        and kept; one that was cut off is never graded: `rollout.cancelled_counts_as` says what it is."""
        winner = self._context.sampler.find_winner(draws)
        cancellation = Cancellation(is_set=winner is not None)
        winner_tokens = winner.response.num_tokens if winner is not None else 0
        tasks = [
            asyncio.ensure_future(self._sample_and_grade(draw, cancellation)) for draw in draws
        ]
        try:
            for next_done in asyncio.as_completed(tasks):
                scored = await next_done
                if scored is None or not scored.is_correct:
                    continue
                if not cancellation.is_set and not all(task.done() for task in tasks):
                    winner_tokens = scored.response.num_tokens
                    await self._context.sampler.cancel(cancellation)
        finally:
            await end(tasks)  # type: ignore[arg-type]
        return self._keep_after_cancel(
            [task.result() for task in tasks], cancellation, winner_tokens
        )

    def _keep_after_cancel(
        self, results: list[ScoredResponse | None], cancellation: Cancellation, winner_tokens: int
    ) -> list[ScoredResponse]:
        sent = [scored for scored in results if scored is not None]
        if not cancellation.is_set:
            return sent
        cut_off = [scored for scored in sent if scored.response.finish_reason == "abort"]
        stats = self._context.cancels
        stats.winners += 1
        stats.winner_tokens += winner_tokens
        stats.unsent += len(results) - len(sent)
        stats.add_cancelled(cut_off, winner_tokens=winner_tokens)
        members = [s for s in sent if self._is_member(s.response)]
        self._left_out += [s for s in sent if not self._is_member(s.response)]
        return members

    def _is_member(self, response: Response) -> bool:
        """Of its group. A response that was cut off is one where it counts as truncated and has what training needs."""
        if response.finish_reason != "abort":
            return True
        is_whole = response.num_tokens == len(response.logprobs) > 0
        return is_whole and self._context.cancelled_counts_as == "truncated"

    def _draw(self, stage: int, index: int, urgency: float) -> Draw:
        context, position = self._context, self._step_prompt.position
        prompt = self._step_prompt.prompt
        return Draw(
            response_id=f"s{context.step}.p{position}.{stage}.{index}",
            prompt=prompt,
            step=context.step,
            stage=stage,
            index=index,
            seed=response_seed(
                context.run_seed, prompt.prompt_id, context.step, position, stage, index
            ),
            sampling=context.sampling,
            policy_version=context.policy_version,
            # The longest expected chain first (benchmarks/rollout_stages.py). Before anything is known that is: first
            # stages first, so that no prompt begins its whole chain when the others are done.
            rank=(-urgency, stage, position),
        )


async def run_continuously(rollouts: Sequence[PromptRollout]) -> None:
    """Nobody waits for another prompt."""
    await gather(rollout.run_to_its_end() for rollout in rollouts)


async def run_with_barriers(rollouts: Sequence[PromptRollout]) -> None:
    """The paper's literal form: a stage begins when the one before has ended for every prompt."""
    while active := [rollout for rollout in rollouts if not rollout.is_done]:
        await gather(rollout.run_stage() for rollout in active)
