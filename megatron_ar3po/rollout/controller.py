"""`RolloutController`: prompts -> response groups, by adaptive rollout. Leader only.

Promises:
- continuous stages: the moment the verdicts of a prompt's stage are in, it retires or its next stage is asked for;
  `rollout.stage_scheduling=barrier` makes every stage wait for all prompts, with the same responses where the server
  honours seeds, since a seed depends on run, prompt, step, stage and index alone;
- each response is verified as it arrives, while others are still being sampled;
- every response of a step was sampled by the policy version that was asked for;
- an aborted answer is drawn again, never graded; no response is lost or counted twice;
- a response that the log holds from a process that was killed is not drawn again (`response_log`);
- a prompt that does not fit never reaches a server;
- behind a router a controller whose prompts wait uses the room that others leave.

Groups come back by position, their responses by (stage, index), whatever the order of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.async_tasks import end, gather
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.interfaces import RolloutEngine, RolloutEngineError, Verifier
from megatron_ar3po.observability.timeline import Timeline
from megatron_ar3po.platform.garbage import spare_collections
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.records import Records
from megatron_ar3po.rollout.draws import Cancellation, Draw, evaluation_draws
from megatron_ar3po.rollout.prompt_rollout import (
    PromptRollout,
    StepContext,
    run_continuously,
    run_with_barriers,
)
from megatron_ar3po.rollout.response_log import NoResponseLog, ResponseLog
from megatron_ar3po.rollout.slots import PrioritySlots, num_slots
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.rollout.token_budget import TokenBudget, share_of_cap
from megatron_ar3po.types import (
    CollectedStep,
    Generation,
    GenerationRequest,
    Prompt,
    Response,
    SamplingParams,
    ScoredResponse,
    Scoring,
    ScoringRequest,
    StepPrompt,
    Verdict,
)
from megatron_ar3po.usage import NO_RETRIES, Retries

T = TypeVar("T")

# SGLang 0.5.23 would otherwise cut the answer short without a word (scheduler.init_req_max_new_tokens), or refuse a
# prompt that leaves less room than this, whatever the answer's limit (tp_worker.max_req_input_len).
_RESERVED_TOKENS = 2
_LEAST_ROOM = 5


class RolloutController:
    """Owns the event loop in which engine and verifier run; synchronous to the outside."""

    def __init__(
        self,
        engine: RolloutEngine,
        verifier: Verifier,
        config: RolloutConfig,
        servers: ServersConfig,
        *,
        run_seed: int,
        stop_token_ids: tuple[int, ...],
        max_context_tokens: int,
        vocab_size: int,
        kv_tokens: int = 0,
        num_clients: int = 1,
        history: PromptHistory | None = None,
        log: ResponseLog | None = None,
        incorrect_reward: Callable[[Prompt], float] = lambda prompt: 0.0,
        look_every_s: float = 1.0,
        timeline: Timeline | None = None,
    ) -> None:
        """`kv_tokens`: what the KV caches of all its servers hold together; 0 when it is not known. `num_clients`: of
        the router, each with as many servers of its own. `history`: of the steps before, for a resumed run.
        `log`: where a step's responses are written down as they come. `incorrect_reward`: of a cancelled response that
        counts as truncated. `look_every_s`: how often the router is asked what the other clients leave free.
        `timeline`: of the process, which learns where the seconds of a rollout go."""
        self.engine = engine
        self.verifier = verifier
        self.log: ResponseLog = log or NoResponseLog()
        self.history = history or PromptHistory(decay=config.history_decay)
        self.rule = make_stage_rule(config, self.history)
        self.sampling = SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            max_response_tokens=config.max_response_tokens,
            stop_token_ids=stop_token_ids,
        )
        self._config = config
        self._servers = servers
        self.run_seed = run_seed
        self._max_context_tokens = max_context_tokens
        self._vocab_size = vocab_size
        self._kv_tokens = kv_tokens
        self._num_clients = num_clients
        self._incorrect_reward = incorrect_reward
        self._look_every_s = look_every_s
        self._timeline = timeline or Timeline()
        self._slots = PrioritySlots(1, self._timeline)
        self._loop = asyncio.new_event_loop()

    def collect(
        self,
        prompts: Sequence[StepPrompt],
        *,
        step: int,
        policy_version: int,
    ) -> CollectedStep:
        """Rolls the prompts out, stage by stage, until each is solved or has had all of its stages. The records are of
        early cancel, where `rollout.cancel_solved` is on."""
        for step_prompt in prompts:
            self._check_prompt(step_prompt.prompt, self.sampling)
        self.log.open_step(step)
        restored_before = self.log.restored
        context = self._make_context(prompts, step, policy_version)
        rollouts = [PromptRollout(context, step_prompt) for step_prompt in prompts]
        self._size_slots(longest_sequence([p.prompt for p in prompts], self.sampling))
        has_barriers = self._config.stage_scheduling == "barrier"
        run_all = run_with_barriers if has_barriers else run_continuously
        self._run(run_all(rollouts))
        self._run(self.engine.repair_all())
        groups = [
            replace(group, record=self.history.record(group.prompt))
            for group in sorted((r.group() for r in rollouts), key=lambda g: g.position)
        ]
        records = context.cancels.records if self._config.cancel_solved else Records()
        restored = self.log.restored - restored_before
        return CollectedStep(groups=tuple(groups), restored=restored, records=records)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        num_samples: int,
        sampling: SamplingParams,
        seed_key: str,
        policy_version: int,
    ) -> list[list[ScoredResponse]]:
        """`num_samples` responses of each prompt, no stages: for evaluation."""
        asked = PromptSet(name="", prompts=prompts, samples=num_samples, sampling=sampling)
        draws = evaluation_draws(
            [asked], run_seed=self.run_seed, seed_key=seed_key, policy_version=policy_version
        )
        scored = self.sample_draws(list(draws))
        return [scored[i : i + num_samples] for i in range(0, len(scored), num_samples)]

    def sample_draws(
        self,
        draws: Sequence[Draw],
        seen: Callable[[Draw, ScoredResponse], None] = lambda draw, scored: None,
    ) -> list[ScoredResponse]:
        """One response each. `seen`: told of each as it comes."""
        for draw in draws:
            self._check_prompt(draw.prompt, draw.sampling)
        self._size_slots(max((longest_sequence([d.prompt], d.sampling) for d in draws), default=0))

        async def sample(draw: Draw) -> ScoredResponse:
            scored = await self._sample_and_grade(draw, None)
            assert scored is not None, "nothing was cancelled"
            seen(draw, scored)
            return scored

        return self._run(gather(sample(draw) for draw in draws))

    def score(self, requests: Sequence[ScoringRequest], *, policy_version: int) -> list[Scoring]:
        """Answers that exist, weighed by the policy as it is now. The last tokens of one that fills the context are
        left out: the server takes none that leaves no room."""
        asked = [
            replace(r, response_token_ids=r.response_token_ids[: self._room_for_scoring(r)])
            for r in requests
        ]
        self._size_slots(max((num_tokens_of(request) for request in asked), default=0))

        async def score_one(index: int, request: ScoringRequest) -> Scoring:
            async with self._slots.slot((0, index)):
                scoring = await self.engine.score(request)
            self._check_version(scoring, request.request_id, policy_version)
            return scoring

        return self._run(gather(score_one(i, request) for i, request in enumerate(asked)))

    def _room_for_scoring(self, request: ScoringRequest) -> int:
        room = self._max_context_tokens
        if self._kv_tokens:
            room = min(room, self._kv_tokens // self._servers.servers_per_replica)
        return max(0, room - _LEAST_ROOM - _RESERVED_TOKENS - len(request.prompt_token_ids))

    def close(self) -> None:
        """Closes engine and verifier, which this controller ran."""
        if self._loop.is_closed():
            return
        self._loop.run_until_complete(self.engine.close())
        self._loop.close()
        self.verifier.close()

    async def draw(
        self, draw: Draw, cancellation: Cancellation | None = None
    ) -> ScoredResponse | None:
        """One response, from the log or sampled and graded. With a `cancellation` that was set meanwhile: None when it
        had not been sent, and one with finish_reason 'abort' that no verifier has seen when it was cut off."""
        is_cancelled = cancellation is not None and cancellation.is_set
        found = self.log.find(draw, is_cancelled=is_cancelled)
        if found is not None and found.has_verdict:
            return found.scored
        if found is not None:
            response = found.scored.response
            verdict = await self.verifier.verify(draw.prompt, response)
            scored = ScoredResponse(response=response, verdict=verdict)
        else:
            scored = await self._sample_and_grade(draw, cancellation)
        if scored is not None:
            await self.log.append(scored)
        return scored

    def find_winner(self, draws: Sequence[Draw]) -> ScoredResponse | None:
        return self.log.find_winner(draws)

    async def _sample_and_grade(
        self, draw: Draw, cancellation: Cancellation | None
    ) -> ScoredResponse | None:
        generation = await self._generate(draw, cancellation)
        if generation is None:
            return None
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
            was_begun=generation.was_begun,
            retries=generation.retries,
        )
        if response.finish_reason == "abort":
            reward, reason = self._incorrect_reward(draw.prompt), "cancelled: a sibling was right"
            cancelled = Verdict(reward=reward, status="truncated", reason=reason)
            return ScoredResponse(response=response, verdict=cancelled)
        with self._timeline.during("verifier", draw.response_id):
            verdict = await (draw.verifier or self.verifier).verify(draw.prompt, response)
        return ScoredResponse(response=response, verdict=verdict)

    async def cancel(self, cancellation: Cancellation) -> None:
        """What waits for a slot is not sent; what is in flight is aborted at its server."""
        cancellation.is_set = True
        await gather(self.engine.abort(request) for request in cancellation.in_flight.values())

    async def _generate(self, draw: Draw, cancellation: Cancellation | None) -> Generation | None:
        """The server may abort a request of its own accord (a pause, a restart): what it had is no answer, and it is
        drawn again; it is among the answer's retries then. What we cancelled is not drawn again."""
        cancellation = cancellation or Cancellation()
        if cancellation.is_set:
            return None
        aborted, retries = None, NO_RETRIES
        for attempt in range(self._servers.max_retries + 1):
            request = GenerationRequest(
                request_id=draw.response_id + (f".again{attempt}" if attempt else ""),
                prompt_token_ids=draw.prompt.token_ids,
                sampling=draw.sampling,
                seed=draw.seed,
            )
            async with self._slots.slot(draw.rank):
                if cancellation.is_set:
                    return aborted
                cancellation.in_flight[draw.response_id] = request.request_id
                try:
                    generation = await self.engine.generate(request)
                finally:
                    del cancellation.in_flight[draw.response_id]
            generation = replace(generation, retries=retries + generation.retries)
            if generation.finish_reason == "abort" and not cancellation.is_set:
                aborted = generation
                retries = generation.retries + Retries(
                    aborted=int(generation.was_begun), aborted_tokens=len(generation.token_ids)
                )
                continue
            self._check_version(generation, draw.response_id, draw.policy_version)
            return generation
        raise RolloutEngineError(
            f"response {draw.response_id} was aborted {self._servers.max_retries + 1} times "
            f"(servers.max_retries={self._servers.max_retries}); look for what pauses or aborts the server."
        )

    def _check_version(self, answer: Generation | Scoring, request: str, expected: int) -> None:
        if answer.policy_version != expected:
            raise RolloutEngineError(
                f"server {answer.server} answered {request} with policy version {answer.policy_version}, the trainer "
                f"is at {expected}: its weights are stale. Publish to every server before sampling."
            )

    def _make_context(
        self, prompts: Sequence[StepPrompt], step: int, policy_version: int
    ) -> StepContext:
        config = self._config
        cap: int | None = None
        if config.max_tokens_per_step:
            positions = [prompt.position for prompt in prompts]
            cap = share_of_cap(config.max_tokens_per_step, positions, config.prompts_per_step)
        return StepContext(
            sampler=self,
            rule=self.rule,
            sampling=self.sampling,
            budget=TokenBudget(cap),
            run_seed=self.run_seed,
            step=step,
            policy_version=policy_version,
            urgency=lambda prompt, num_done: self.history.likely_chain_tokens(
                prompt.prompt_id, config.stage_sizes, num_done=num_done
            ),
            cancel_solved=config.cancel_solved,
            cancelled_counts_as=config.cancelled_counts_as,
        )

    def _size_slots(self, longest: int) -> None:
        """Nothing is in flight now."""
        count = num_slots(self._servers, kv_tokens=self._kv_tokens, longest=longest)
        self._slots = PrioritySlots(count, self._timeline)

    def _check_prompt(self, prompt: Prompt, sampling: SamplingParams) -> None:
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

    async def _use_others_room(self, work: Coroutine[Any, Any, T]) -> T:
        """At every look the slots become our own and half of what all clients together leave free: two that want it
        share it, and what is asked for too much is given back at the next look."""

        async def look_around() -> None:
            while True:
                await asyncio.sleep(self._look_every_s)
                others = await self.engine.num_in_flight_of_others()
                if others is not None:
                    free = own * self._num_clients - others - self._slots.num_slots
                    self._slots.resize(max(own, self._slots.num_slots - (-free // 2)))

        own = self._slots.num_slots
        looking = asyncio.ensure_future(look_around())
        try:
            return await work
        finally:
            await end([looking])

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """To its end, or to its first error: then nothing of it runs on."""
        if self._num_clients > 1:
            work = self._use_others_room(work)
        task = self._loop.create_task(work)
        try:
            with self._timeline.sampling(), spare_collections():
                return self._loop.run_until_complete(task)
        finally:
            # Ctrl-C arrives outside of the task: what it left is ended before anything else runs in this loop.
            if not task.done():
                task.cancel()
                self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))


def longest_sequence(prompts: Sequence[Prompt], sampling: SamplingParams) -> int:
    """Prompt and answer at full length."""
    return max((len(p.token_ids) + sampling.max_response_tokens for p in prompts), default=0)


def num_tokens_of(request: ScoringRequest) -> int:
    return len(request.prompt_token_ids) + len(request.response_token_ids)
