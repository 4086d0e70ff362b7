"""From servers and verifier to the samplers of a step and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.algorithm.verdict_checks import check_error_share
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import check_kv_tokens
from megatron_ar3po.distributed.collectives import PeerError, Ranks
from megatron_ar3po.evaluator import Evaluator
from megatron_ar3po.interfaces import PromptOrder, StepSampler
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.observability.timeline import Span, Timeline, no_span
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.draws import Draw, evaluation_draws
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.rollout.lessons import Learner, Lessons
from megatron_ar3po.rollout.response_log import ResponseLogFolder
from megatron_ar3po.rollout.step_sampler import DynamicSampler, FixedSampler
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.sampling_cost import Spent
from megatron_ar3po.servers.counters import server_books
from megatron_ar3po.servers.routed_engine import RoutedEngine
from megatron_ar3po.servers.router_control import RouterControl
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.types import (
    CollectedStep,
    ResponseGroup,
    ScoredResponse,
)
from megatron_ar3po.usage import Process, ServerUsage
from megatron_ar3po.wiring.prompts_and_verifier import PromptsAndVerifier
from megatron_ar3po.wiring.router import RouterAccess, revive
from megatron_ar3po.wiring.servers import RunServer, counters_before
from megatron_ar3po.wiring.suite_prompts import sampling_of

EVALUATION_SEED_KEY = "eval"  # one key, so that evaluations at different times draw the same noise


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderRollout:
    """What samples for a replica, and the ledger of what that costs. Ranks that lead none have no servers to talk to
    and no costs to write down."""

    controller: RolloutController
    ledger: Ledger
    max_error_frac: float  # rewards.max_error_frac
    log: ResponseLogFolder | None  # None: responses are not written down as they come

    def forget_up_to(self, step: int) -> None:
        """No resume will do this step again, nor an earlier one."""
        if self.log is not None:
            self.log.remove_up_to(step)

    def sample_for_evaluation(
        self, sets: Sequence[PromptSet], *, step: int, policy_version: int
    ) -> list[list[list[ScoredResponse]]]:
        """The responses to each prompt of each set, written down as cost of the evaluation after `step`. Raises where
        the verifier fails for too many of them."""
        draws = evaluation_draws(
            sets,
            run_seed=self.controller.run_seed,
            seed_key=EVALUATION_SEED_KEY,
            policy_version=policy_version,
        )
        scored = iter(self.sample_draws(list(draws), step=step, policy_version=policy_version))
        return [[list(islice(scored, asked.samples)) for _ in asked.prompts] for asked in sets]

    def sample_draws(
        self,
        draws: Sequence[Draw],
        *,
        step: int,
        policy_version: int,
        seen: Callable[[Draw, ScoredResponse], None] = lambda draw, scored: None,
    ) -> list[ScoredResponse]:
        """The same of single ones. `seen`: told of each as it comes."""
        scored = self.controller.sample_draws(draws, seen)
        of_prompts = [
            [one for _, one in pairs]
            for _, pairs in groupby(
                zip(draws, scored, strict=True),
                key=lambda pair: pair[0].response_id.rpartition(".")[0],
            )
        ]
        self.ledger.record_evaluation(of_prompts, step=step, policy_version=policy_version)
        verdicts = [one.verdict for one in scored]
        check_error_share(verdicts, max_error_frac=self.max_error_frac, of="this evaluation")
        return scored


class NoSampler:
    """A `StepSampler` of a rank that is no leader: nothing calls it."""

    def collect(self, *, step: int, policy_version: int) -> CollectedStep:
        raise AssertionError("only leaders sample")

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        raise AssertionError("only leaders sample")

    def learn(self, step: int) -> None:
        raise AssertionError("only leaders sample")


def build_rollout(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    inputs: PromptsAndVerifier,
    servers: Sequence[RunServer],
    router: RouterAccess | None,
    start: StartingPoint,
    log: ResponseLogFolder | None = None,
    check_ownership: Callable[[], None] = lambda: None,
    timeline: Timeline | None = None,
) -> LeaderRollout:
    """Collective over leaders, inside `Ranks.only_on_leader`. The servers are ready."""
    assert inputs.verifier is not None, "leaders hold a verifier"
    engine = build_engine(config, ranks, inputs, servers, router, timeline)
    for server in servers:
        check_kv_tokens(
            config,
            server.kv_tokens(),
            found=f"server {server.name} holds {server.kv_tokens()} tokens",
            mend="raise servers.max_total_tokens (CPU) or servers.sglang.mem_fraction_static (GPU)",
        )
    shape = read_model_shape(config.model.path)
    history = PromptHistory(
        decay=config.rollout.history_decay,
        pooled=config.algorithm.history_prior,
        half_life=config.rollout.history_half_life,
        num_prompts=len(inputs.training),
        prior_weight=config.algorithm.history_prior_weight,
    )
    history.replay(rows_of_run(config.run.path / "ledger", up_to=start.last_step))
    controller = RolloutController(
        engine,
        inputs.verifier,
        config.rollout,
        config.servers,
        run_seed=config.run.seed,
        stop_token_ids=inputs.stop_token_ids,
        max_context_tokens=shape.max_positions,
        vocab_size=inputs.vocab_size,
        kv_tokens=sum(server.kv_tokens() for server in servers),
        num_clients=1 if router is None else ranks.layout.data_parallel_size,
        history=history,
        log=log,
        incorrect_reward=PromptGrading(config.rewards).incorrect_reward,
        timeline=timeline,
    )
    stack.callback(controller.close)
    path = config.run.path / "ledger" / f"dp{ranks.layout.dp_rank:02d}.jsonl"
    most = config.rollout.max_responses_per_prompt
    most_of_a_prompt = Spent(responses=most, tokens=most * config.rollout.max_response_tokens)
    if config.servers.routing == "local":
        ledger = Ledger(
            path,
            lambda: server_books(engine, before=counters_before(servers)),
            most_of_a_prompt=most_of_a_prompt,
            check_ownership=check_ownership,
        )
    else:
        ledger = Ledger(
            path,
            lambda: server_books(
                engine, usage_of_all(engine, ranks), before=counters_before(servers)
            ),
            seen=lambda: sum(engine.usage.values(), ServerUsage()),
            most_of_a_prompt=most_of_a_prompt,
            check_ownership=check_ownership,
        )
    return LeaderRollout(
        controller=controller,
        ledger=ledger,
        max_error_frac=config.rewards.max_error_frac,
        log=log,
    )


def usage_of_all(engine: SglangEngine, ranks: Ranks) -> list[dict[Process, ServerUsage]]:
    """Collective over leaders, when their rollouts have ended: what each was answered, by whom."""
    answers: list[Any] = ranks.gather_over_replicas(dict(engine.usage))
    for replica, answer in enumerate(answers):
        if isinstance(answer, str):
            raise PeerError(f"the rollout of replica {replica} failed: {answer}")
    return answers


def build_engine(
    config: Config,
    ranks: Ranks,
    inputs: PromptsAndVerifier,
    servers: Sequence[RunServer],
    router: RouterAccess | None,
    timeline: Timeline | None = None,
) -> SglangEngine:
    """Collective over leaders with `servers.routing=global`."""
    if router is None:
        return SglangEngine(
            servers,
            config.servers,
            vocab_size=inputs.vocab_size,
            is_deterministic=config.run.deterministic,
            on_server_lost=lambda server: revive(server, ranks),
            timeline=timeline,
        )
    urls = ranks.gather_over_replicas([server.url for server in servers])
    return RoutedEngine(
        servers,
        config.servers,
        vocab_size=inputs.vocab_size,
        is_deterministic=config.run.deterministic,
        router_url=router.url,
        client=f"dp{ranks.layout.dp_rank}",
        all_urls=[url for replica in urls for url in replica],
        on_server_lost=lambda server: revive(server, ranks, RouterControl(router.url)),
        on_router_lost=router.restart,
        timeline=timeline,
    )


def build_sampler(
    config: Config,
    ranks: Ranks,
    prompts: PromptOrder,
    rollout: LeaderRollout | None,
    sources: frozenset[str],
    span: Span = no_span,
    learners: Sequence[Learner] = (),
) -> StepSampler:
    """`sources` of prompts have metrics of their own. `learners` beside the history."""
    if rollout is None:
        return NoSampler()
    lessons = Lessons(rollout.controller.history, ranks.gather_over_replicas, others=learners)
    tell_failure = (
        ranks.gather_over_replicas if config.servers.routing == "global" else lambda text: None
    )
    if not config.algorithm.dynamic_sampling:
        return FixedSampler(
            rollout.controller,
            prompts.next_batch,
            layout=ranks.layout,
            prompts_per_step=config.rollout.prompts_per_step,
            ledger=rollout.ledger,
            sources=sources,
            lessons=lessons,
            tell_failure=tell_failure,
            span=span,
        )
    return DynamicSampler(
        rollout.controller,
        prompts.next_batch,
        layout=ranks.layout,
        prompts_per_step=config.rollout.prompts_per_step,
        max_rounds=config.algorithm.max_sampling_rounds,
        prompts_per_round=config.algorithm.prompts_per_round,
        keep_by=config.algorithm.dynamic_sampling_by,
        gather_over_replicas=ranks.gather_over_replicas,
        ledger=rollout.ledger,
        sources=sources,
        lessons=lessons,
        tell_failure=tell_failure,
        span=span,
    )


def build_evaluator(
    config: Config, ranks: Ranks, inputs: PromptsAndVerifier, rollout: LeaderRollout | None
) -> Evaluator:
    def sample(
        sets: Sequence[PromptSet], *, step: int, policy_version: int
    ) -> list[list[list[ScoredResponse]]]:
        assert rollout is not None, "only leaders sample"
        return rollout.sample_for_evaluation(sets, step=step, policy_version=policy_version)

    held_out = PromptSet(
        name="",
        prompts=inputs.held_out[: config.evaluation.max_prompts or None],
        samples=config.evaluation.samples_per_prompt,
        sampling=sampling_of(config, inputs.stop_token_ids),
    )
    return Evaluator([held_out, *inputs.sets], sample, ranks)
