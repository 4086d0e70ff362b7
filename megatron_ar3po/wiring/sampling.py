"""From servers and verifier to the samplers of a step and of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, cast

from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.collectives import PeerError, Ranks
from megatron_ar3po.evaluator import Evaluator
from megatron_ar3po.interfaces import StepSampler
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.rollout.step_sampler import DynamicSampler, FixedSampler
from megatron_ar3po.servers.counters import server_books
from megatron_ar3po.servers.routed_engine import RoutedEngine
from megatron_ar3po.servers.router_control import RouterControl
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.types import Prompt, SamplingParams, ScoredResponse
from megatron_ar3po.usage import Process, ServerUsage
from megatron_ar3po.wiring.prompts_and_verifier import PromptsAndVerifier
from megatron_ar3po.wiring.servers import RouterAccess, RunServer, counters_before, revive

EVALUATION_SEED_KEY = "eval"  # one key, so that evaluations at different times draw the same noise


def build_controller(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    inputs: PromptsAndVerifier,
    servers: Sequence[RunServer],
    router: RouterAccess | None,
) -> tuple[RolloutController | None, Ledger | None]:
    """On leaders; the other ranks have no servers to talk to and no costs to write down."""
    if not ranks.is_leader:
        return None, None
    assert inputs.verifier is not None, "leaders hold a verifier"
    engine = build_engine(config, ranks, inputs, servers, router)
    shape = read_model_shape(config.model.path)
    history = PromptHistory(decay=config.rollout.history_decay)
    history.replay(rows_of_run(config.run.path / "ledger"))
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
    )
    stack.callback(controller.close)
    path = config.run.path / "ledger" / f"dp{ranks.layout.dp_rank:02d}.jsonl"
    before = counters_before(servers)
    if config.servers.routing == "local":
        return controller, Ledger(path, lambda: server_books(engine, before=before))
    ledger = Ledger(
        path,
        lambda: server_books(engine, usage_of_all(engine, ranks), before=before),
        seen=lambda: sum(engine.usage.values(), ServerUsage()),
    )
    return controller, ledger


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
) -> SglangEngine:
    """Collective over leaders with `servers.routing=global`."""
    if router is None:
        return SglangEngine(
            servers,
            config.servers,
            vocab_size=inputs.vocab_size,
            is_deterministic=config.run.deterministic,
            on_server_lost=lambda server: revive(server, ranks),
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
    )


def build_sampler(
    config: Config,
    ranks: Ranks,
    prompts: PromptSource,
    controller: RolloutController | None,
    ledger: Ledger | None,
) -> StepSampler:
    collector = cast("RolloutController", controller)  # only leaders call a sampler
    if not config.algorithm.dynamic_sampling:
        return FixedSampler(
            collector,
            prompts.next_batch,
            layout=ranks.layout,
            prompts_per_step=config.rollout.prompts_per_step,
            ledger=ledger,
            tell_failure=ranks.gather_over_replicas
            if config.servers.routing == "global"
            else lambda text: None,
        )
    return DynamicSampler(
        collector,
        prompts.next_batch,
        layout=ranks.layout,
        prompts_per_step=config.rollout.prompts_per_step,
        max_rounds=config.algorithm.max_sampling_rounds,
        prompts_per_round=config.algorithm.prompts_per_round,
        keep_by=config.algorithm.dynamic_sampling_by,
        gather_over_replicas=ranks.gather_over_replicas,
        ledger=ledger,
    )


def build_evaluator(
    config: Config,
    ranks: Ranks,
    inputs: PromptsAndVerifier,
    controller: RolloutController | None,
    ledger: Ledger | None,
) -> Evaluator:
    def sample(
        prompts: Sequence[Prompt], num_samples: int, sampling: SamplingParams, policy_version: int
    ) -> list[list[ScoredResponse]]:
        assert controller is not None and ledger is not None, "only leaders evaluate"
        answers = controller.sample(
            prompts,
            num_samples=num_samples,
            sampling=sampling,
            seed_key=EVALUATION_SEED_KEY,
            policy_version=policy_version,
        )
        ledger.record_evaluation(answers, policy_version=policy_version)
        return answers

    sampling = evaluation_sampling(config, inputs)
    return Evaluator(inputs.held_out, sample, ranks, config.evaluation, sampling)


def evaluation_sampling(config: Config, inputs: PromptsAndVerifier) -> SamplingParams:
    return SamplingParams(
        temperature=config.evaluation.temperature,
        top_p=config.evaluation.top_p,
        max_response_tokens=config.rollout.max_response_tokens,
        stop_token_ids=inputs.stop_token_ids,
    )
