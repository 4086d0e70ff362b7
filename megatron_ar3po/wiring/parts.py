"""The parts of a run, and the trainer that they make. The one place that puts concrete classes together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_ar3po.algorithm.entropy_floor import EntropyFloor
from megatron_ar3po.colocation import Colocation
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Actor, PromptOrder, ReuseShard, WeightPublisher
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.observability.source_metrics import metric_sources
from megatron_ar3po.observability.step_events import TRACE_FOLDER, EventRecorder
from megatron_ar3po.observability.step_profile import StepProfiles
from megatron_ar3po.observability.timeline import Timeline
from megatron_ar3po.observability.waiting import telling
from megatron_ar3po.reuse.opening import ShardClaim
from megatron_ar3po.rollout.lessons import Learner
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.checkpoints import CheckpointSaver
from megatron_ar3po.run.policy_digest import PolicyDigest
from megatron_ar3po.run.row_files import RowFiles
from megatron_ar3po.run.state import RunState, StartingPoint
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.wiring.awaited_servers import find_awaited
from megatron_ar3po.wiring.metric_sinks import make_sinks
from megatron_ar3po.wiring.policy import build_policy
from megatron_ar3po.wiring.prompt_order import build_prompt_order
from megatron_ar3po.wiring.prompts_and_verifier import (
    PromptsAndVerifier,
    load_prompts_and_verifier,
    make_prompt_source,
)
from megatron_ar3po.wiring.response_log import open_response_log
from megatron_ar3po.wiring.reuse_store import build_lender, claim_store, open_replay
from megatron_ar3po.wiring.router import start_router
from megatron_ar3po.wiring.run_facts import allows_other_prompts
from megatron_ar3po.wiring.sampling import (
    LeaderRollout,
    build_evaluator,
    build_rollout,
    build_sampler,
)
from megatron_ar3po.wiring.servers import RunServer, start_servers

if TYPE_CHECKING:
    from megatron_ar3po.trainer import Ar3poTrainer


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What a run is made of and may fail to get. None of it has changed what an earlier run has left."""

    servers: list[RunServer]
    inputs: PromptsAndVerifier
    prompts: PromptSource
    store_claim: ShardClaim | None
    actor: Actor
    publisher: WeightPublisher
    colocation: Colocation
    policy_digest: PolicyDigest  # advanced by each update
    rollout: LeaderRollout | None
    stop: StopRequest
    timeline: Timeline
    check_ownership: Callable[[], None]  # of the run's folder, on any rank


def build_parts(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    stop: StopRequest,
    start: StartingPoint,
    check_ownership: Callable[[], None],
    timeline: Timeline,
    begun: SglangServer | None,
) -> RunParts:
    """Collective. Prompts and store, as of `start`, can refuse it: they come before the servers. The model is loaded
    while these import; then they are let in. `begun`: as `start_servers` says."""
    with timeline.span("prompts"):
        inputs = load_prompts_and_verifier(config, ranks, stack, start.facts.rendered_at)
        prompts = make_prompt_source(config, inputs)
        if start.checkpoint is not None:
            prompts.restore(start.state.prompt_cursor, may_differ=allows_other_prompts(config))
    with timeline.span("store"):
        store_claim = claim_store(config, ranks, stack, start)
    with timeline.span("servers"):
        servers = start_servers(config, ranks, stack, begun=begun)
        ranks.watch.calls = find_awaited(servers)
    with timeline.span("tokenizer"):  # beside the imports of the servers, as the model
        with telling("imports of torch and transformers, the tokenizer"):
            inputs.load_tokenizer()
    policy = build_policy(config, ranks, stack, servers, start, timeline)
    router = start_router(config, ranks, stack, servers)
    policy_digest = PolicyDigest(config, start.state.policy_digest)
    log = ranks.only_on_leader(
        lambda: open_response_log(config, ranks, stack, inputs, policy_digest, check_ownership)
    )
    rollout = ranks.only_on_leader(
        lambda: build_rollout(
            config, ranks, stack, inputs, servers, router, start, log, check_ownership, timeline
        )
    )
    return RunParts(
        servers=servers,
        inputs=inputs,
        prompts=prompts,
        store_claim=store_claim,
        actor=policy.actor,
        publisher=policy.publisher,
        colocation=policy.colocation,
        policy_digest=policy_digest,
        rollout=rollout,
        stop=stop,
        timeline=timeline,
        check_ownership=check_ownership,
    )


def build_trainer(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    parts: RunParts,
    store: ReuseShard,
    start: StartingPoint,
) -> Ar3poTrainer:
    """Everything stands at `start`."""
    # These bring torch along, which is not waited for before the servers have been started.
    from megatron_ar3po.data.dump import StepDump
    from megatron_ar3po.policy_update import PolicyUpdate
    from megatron_ar3po.trainer import Ar3poTrainer

    folder = config.run.path
    events = EventRecorder(
        folder / TRACE_FOLDER,
        parts.timeline,
        rank=ranks.layout.rank,
        last_steps=config.observability.trace_last_steps,
        every_steps=config.observability.trace_every_steps,
    )
    actor, rollout = parts.actor, parts.rollout
    prompts: PromptOrder = parts.prompts
    learners: list[Learner] = []
    if rollout is not None:
        prompts, learners = build_prompt_order(config, parts.prompts, parts.inputs.training, start)
    sinks = make_sinks(config, stack, last_step=start.last_step) if ranks.is_first else None
    metrics = Metrics(
        ranks, folder, sinks=sinks, timeline=parts.timeline, write_events=events.write
    )
    metrics.totals.update(start.state.totals)
    ranks.watch.steps_done = start.state.step

    replay = open_replay(config, ranks, start, parts.check_ownership)

    def commit(oldest: RunState) -> None:
        assert rollout is not None, "on leaders"
        store.commit_checkpoint(oldest.store_cursor)
        rollout.forget_up_to(oldest.step)
        replay.forget_before(oldest.step)

    return Ar3poTrainer(
        config=config,
        ranks=ranks,
        prompts=prompts,
        sampler=build_sampler(
            config,
            ranks,
            prompts,
            rollout,
            metric_sources(parts.inputs.training.sources),
            span=parts.timeline.span,
            learners=learners,
        ),
        store=store,
        replay=replay,
        lender=build_lender(config, store, rollout, parts.timeline.span),
        policy_update=PolicyUpdate(
            actor,
            ranks,
            config,
            span=metrics.span,
            digest=parts.policy_digest,
            entropy_floor=EntropyFloor(config.algorithm, start.state.entropy_floor),
        ),
        actor=actor,
        weight_publisher=parts.publisher,
        colocation=parts.colocation,
        evaluator=build_evaluator(config, ranks, parts.inputs, rollout),
        metrics=metrics,
        recorder=RolloutRecorder(
            folder / "rollouts.jsonl",
            parts.inputs.decode,
            num_groups=config.observability.record_groups_per_step,
            every_steps=config.observability.record_every_steps,
            is_silent=not ranks.is_first,
        ),
        dump=StepDump(folder / "dumps", ranks, steps=config.debug.dump_steps),
        profiles=StepProfiles(
            folder / "profile",
            rank=ranks.layout.rank,
            profile_steps=config.debug.profile_steps,
            memory_steps=config.debug.memory_steps,
        ),
        saver=CheckpointSaver(
            checkpoint_folder(config),
            ranks,
            actor.save,
            commit,
            timeout_s=config.checkpoint.timeout_s,
            row_files=RowFiles(folder),
            check_ownership=parts.check_ownership,
        ),
        stop=parts.stop,
        check_ownership=parts.check_ownership,
        progress=RunProgress(
            config.run.num_steps, config.run.progress, is_silent=not ranks.is_first
        ),
        state=start.state,
        is_new=start.checkpoint is None,
    )


def checkpoint_folder(config: Config) -> CheckpointFolder:
    return CheckpointFolder(
        config.run.path / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        abandoned=config.checkpoint.abandoned,
        first_bytes=_bytes_of_a_checkpoint(config),
    )


def _bytes_of_a_checkpoint(config: Config) -> int:
    """Weights as they are trained, and AdamW's copy of them and two moments in fp32."""
    if config.debug.mode == "rollout_only":
        return 0
    weight_bytes = 4 if config.model.dtype == "float32" else 2
    return read_policy_shape(config.model.path).num_parameters * (weight_bytes + 12)
