"""`RolloutController`: prompts -> response groups, by adaptive rollout. Leader only.

Promises:
- continuous stages: the moment the verdicts of a prompt's stage are in, it retires or its next stage is asked for;
  `rollout.stage_scheduling=barrier` makes every stage wait for all prompts, with the same responses where the server
  honours seeds, since a seed depends on run, prompt, step, stage and index alone;
- each response is verified as it arrives, while others are still being sampled;
- every response of a step was sampled by the policy version that was asked for;
- an aborted answer is drawn again, never graded; no response is lost or counted twice;
- a prompt that does not fit never reaches a server.

Groups come back by position, their responses by (stage, index), whatever the order of arrival.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from megatron_ar3po.algorithm.adaptive_rollout import EqualStages, StagePlan
from megatron_ar3po.config.schema import RolloutConfig
from megatron_ar3po.interfaces import RolloutEngine, RolloutEngineError, Verifier
from megatron_ar3po.rollout.slots import PrioritySlots
from megatron_ar3po.types import (
    Generation,
    GenerationRequest,
    Prompt,
    Response,
    ResponseGroup,
    SamplingParams,
    ScoredResponse,
    StepPrompt,
)

T = TypeVar("T")

# SGLang 0.5.23 would otherwise cut the answer short without a word (scheduler.init_req_max_new_tokens), or refuse a
# prompt that leaves less room than this, whatever the answer's limit (tp_worker.max_req_input_len).
_RESERVED_TOKENS = 2
_LEAST_ROOM = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutProgress:
    """How far a rollout is; `num_responses` grows until `num_prompts_done` reaches `num_prompts`."""

    num_prompts: int
    num_prompts_done: int = 0
    num_responses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draw:
    """One response to be sampled: its place and what it is asked with."""

    response_id: str
    prompt: Prompt
    step: int
    stage: int
    index: int
    seed: int
    sampling: SamplingParams
    policy_version: int
    rank: tuple[int, int]  # in the queue for a slot; the smallest goes first


class RolloutController:
    """Owns the event loop in which engine and verifier run; synchronous to the outside."""

    def __init__(
        self,
        engine: RolloutEngine,
        verifier: Verifier,
        config: RolloutConfig,
        *,
        run_seed: int,
        stop_token_ids: tuple[int, ...],
        max_context_tokens: int,
        vocab_size: int,
    ) -> None:
        self.engine = engine
        self.verifier = verifier
        self.plan: StagePlan = EqualStages(config.num_stages, config.responses_per_stage)
        self.sampling = SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            max_response_tokens=config.max_response_tokens,
            stop_token_ids=stop_token_ids,
        )
        self._config = config
        self.run_seed = run_seed
        self._max_context_tokens = max_context_tokens
        self._vocab_size = vocab_size
        self._num_slots = config.max_concurrent_requests * config.servers_per_replica
        self._slots = PrioritySlots(self._num_slots)
        self._loop = asyncio.new_event_loop()

    def collect(
        self,
        prompts: Sequence[StepPrompt],
        *,
        step: int,
        policy_version: int,
        progress: Callable[[RolloutProgress], None] | None = None,
    ) -> list[ResponseGroup]:
        """Rolls the prompts out, stage by stage, until each is solved or has had all of its stages."""
        for step_prompt in prompts:
            self._check(step_prompt.prompt, self.sampling)
        rollouts = [
            _PromptRollout(self, step_prompt, step, policy_version) for step_prompt in prompts
        ]
        tracker = _Tracker(len(prompts), progress)
        if self._config.stage_scheduling == "barrier":
            self._run(_barrier(rollouts, tracker))
        else:
            self._run(_gather(rollout.to_its_end(tracker) for rollout in rollouts))
        return sorted((rollout.group() for rollout in rollouts), key=lambda group: group.position)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        sampling: SamplingParams,
        seed_key: str,
        policy_version: int,
    ) -> list[list[ScoredResponse]]:
        """`num_samples` responses of each prompt, no stages: for evaluation. A seed depends on run, `seed_key`, prompt
        and sample alone, so two evaluations with one key draw the same noise, on any layout."""
        for prompt in prompts:
            self._check(prompt, sampling)
        draws = [
            _Draw(
                response_id=f"{seed_key}.v{policy_version}.{place}.{index}",
                prompt=prompt,
                step=0,
                stage=1,
                index=index,
                seed=response_seed(self.run_seed, seed_key, prompt.prompt_id, index),
                sampling=sampling,
                policy_version=policy_version,
                rank=(0, place),
            )
            for place, prompt in enumerate(prompts)
            for index in range(num_samples)
        ]
        scored = self._run(_gather(self.draw(draw) for draw in draws))
        return [scored[i : i + num_samples] for i in range(0, len(scored), num_samples)]

    def close(self) -> None:
        """Closes engine and verifier, which this controller ran."""
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self.engine.close())
        self._loop.close()
        self.verifier.close()

    async def draw(self, draw: _Draw) -> ScoredResponse:
        """One response, sampled and graded."""
        generation = await self._sampled(draw)
        response = Response(
            response_id=draw.response_id,
            prompt_id=draw.prompt.prompt_id,
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            finish_reason=generation.finish_reason,
            policy_version=generation.policy_version,
            step=draw.step,
            stage=draw.stage,
            index=draw.index,
            seed=draw.seed,
            server=generation.server,
            num_cached_tokens=generation.num_cached_tokens,
            elapsed_s=generation.elapsed_s,
        )
        verdict = await self.verifier.verify(draw.prompt, response)
        return ScoredResponse(response=response, verdict=verdict)

    async def _sampled(self, draw: _Draw) -> Generation:
        """The server may abort a request of its own accord (a pause, a restart): what it had is no answer."""
        for attempt in range(self._config.max_retries + 1):
            request = GenerationRequest(
                request_id=draw.response_id
                if not attempt
                else f"{draw.response_id}.again{attempt}",
                prompt_token_ids=draw.prompt.token_ids,
                sampling=draw.sampling,
                seed=draw.seed,
            )
            async with self._slots.slot(draw.rank):
                generation = await self.engine.generate(request)
            if generation.finish_reason == "abort":
                continue
            if generation.policy_version != draw.policy_version:
                raise RolloutEngineError(
                    f"server {generation.server} answered {draw.response_id} with policy version "
                    f"{generation.policy_version}, the trainer is at {draw.policy_version}: its weights are stale. "
                    "Publish to every server before sampling."
                )
            return generation
        raise RolloutEngineError(
            f"response {draw.response_id} was aborted {self._config.max_retries + 1} times "
            f"(rollout.max_retries={self._config.max_retries}); look for what pauses or aborts the server."
        )

    def _check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        name = f"prompt {prompt.prompt_id[:16]} ({prompt.text[:60]!r})"
        length = len(prompt.token_ids)
        if not length:
            raise ValueError(f"{name} is empty; remove it from data.path.")
        needed = length + max(sampling.max_response_tokens, _LEAST_ROOM) + _RESERVED_TOKENS
        if needed > self._max_context_tokens:
            raise ValueError(
                f"{name} has {length} tokens; with rollout.max_response_tokens={sampling.max_response_tokens} and the "
                f"{_RESERVED_TOKENS} tokens that the server keeps for itself that exceeds the model's context of "
                f"{self._max_context_tokens}. Shorten the prompt or lower the limit."
            )
        if min(prompt.token_ids) < 0 or max(prompt.token_ids) >= self._vocab_size:
            raise ValueError(
                f"{name} holds token ids outside the model's vocabulary of {self._vocab_size}: the tokenizer of "
                "model.path does not fit its weights."
            )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """To its end, or to its first error: then nothing of it runs on."""
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        finally:
            # Ctrl-C arrives outside of the task: what it left is ended before anything else runs in this loop.
            if not task.done():
                task.cancel()
                self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))


class _Tracker:
    """Counts for whoever shows progress."""

    def __init__(self, num_prompts: int, report: Callable[[RolloutProgress], None] | None) -> None:
        self._num_prompts = num_prompts
        self._prompts_done = 0
        self._responses = 0
        self._report = report

    def stage_done(self, num_responses: int, *, is_last: bool) -> None:
        self._responses += num_responses
        self._prompts_done += is_last
        if self._report is not None:
            self._report(
                RolloutProgress(
                    num_prompts=self._num_prompts,
                    num_prompts_done=self._prompts_done,
                    num_responses=self._responses,
                )
            )


class _PromptRollout:
    """One prompt on its way through the stages of one step."""

    def __init__(
        self, controller: RolloutController, step_prompt: StepPrompt, step: int, policy_version: int
    ) -> None:
        self._controller = controller
        self._step_prompt = step_prompt
        self._step = step
        self._policy_version = policy_version
        self._scored: list[ScoredResponse] = []
        self._solved_by_stage: list[bool] = []

    @property
    def next_stage_size(self) -> int:
        return self._controller.plan.next_stage_size(self._solved_by_stage)

    async def to_its_end(self, tracker: _Tracker) -> None:
        while self.next_stage_size:
            await self.run_stage(tracker)

    async def run_stage(self, tracker: _Tracker) -> None:
        stage = len(self._solved_by_stage) + 1
        scored = await _gather(
            self._controller.draw(self._draw(stage, index)) for index in range(self.next_stage_size)
        )
        self._scored += scored
        self._solved_by_stage.append(any(response.is_correct for response in scored))
        tracker.stage_done(len(scored), is_last=not self.next_stage_size)

    def group(self) -> ResponseGroup:
        return ResponseGroup(
            position=self._step_prompt.position,
            prompt=self._step_prompt.prompt,
            responses=tuple(self._scored),
        )

    def _draw(self, stage: int, index: int) -> _Draw:
        controller, position = self._controller, self._step_prompt.position
        prompt = self._step_prompt.prompt
        return _Draw(
            response_id=f"s{self._step}.p{position}.{stage}.{index}",
            prompt=prompt,
            step=self._step,
            stage=stage,
            index=index,
            seed=response_seed(
                controller.run_seed, prompt.prompt_id, self._step, position, stage, index
            ),
            sampling=controller.sampling,
            policy_version=self._policy_version,
            # First stages first: what is hard shows early, and no prompt begins its whole chain when the others
            # are done (benchmarks/rollout_stages.py).
            rank=(stage, position),
        )


async def _barrier(rollouts: Sequence[_PromptRollout], tracker: _Tracker) -> None:
    """The paper's literal form: a stage begins when the one before has ended for every prompt."""
    while active := [rollout for rollout in rollouts if rollout.next_stage_size]:
        await _gather(rollout.run_stage(tracker) for rollout in active)


async def _gather(work: Any) -> list[Any]:
    """Results in order; the first error cancels the rest and waits for it before it travels on."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.gather(*pending, return_exceptions=True)


def response_seed(*parts: object) -> int:
    """31 bits that depend on the parts alone: the same in every process and on every layout.

    >>> response_seed(0, "eval", "ab", 3) == response_seed(0, "eval", "ab", 3)
    True
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF
