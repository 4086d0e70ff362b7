"""The whole run: its folder, its parts, its loop, its end. The one place that puts the parts together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import warnings_of
from megatron_ar3po.data.dump import StepDump
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.folder_owner import FolderOwner, check_owner
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.policy_update import PolicyUpdate
from megatron_ar3po.reuse.choice import check_pick
from megatron_ar3po.rollout.ledger_file import abandon_rows_after
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.checkpoints import CheckpointSaver, choose_checkpoint
from megatron_ar3po.run.folder import (
    check_run_folder,
    mark_end,
    name_free_if_it_never_starts,
    open_run_folder,
)
from megatron_ar3po.run.state import RunState, read_state
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.trainer import Ar3poTrainer
from megatron_ar3po.wiring.policy import build_colocation, build_policy
from megatron_ar3po.wiring.prompts_and_verifier import load_prompts_and_verifier
from megatron_ar3po.wiring.reuse_store import build_lender, open_store
from megatron_ar3po.wiring.router import check_routing, start_router
from megatron_ar3po.wiring.sampling import build_evaluator, build_rollout, build_sampler
from megatron_ar3po.wiring.servers import RunServer, start_servers, wait_until_ready

logger = logging.getLogger(__name__)


def train(config: Config, ranks: Ranks, stack: ExitStack, stop: StopRequest) -> RunState:
    """Collective over all ranks: the whole run. Writes RUN/DONE or RUN/STOPPED at its end."""
    started = time.monotonic()
    check_custom_functions(config.algorithm)
    check_pick(config.reuse)
    make_stage_rule(config.rollout, PromptHistory())  # a user's own is imported now
    check_routing(config)
    folder = config.run.path
    ranks.run_on_first(lambda: check_run_folder(config))
    check_ownership = own_run_folder(config, ranks, stack)
    checkpoint, note = None, ""
    if config.run.resume:
        checkpoint, note = choose_checkpoint(checkpoint_folder(config), ranks)
    ranks.run_on_first(
        lambda: open_run_folder(config, checkpoint, abandon_ledger_rows=abandon_rows_after)
    )
    setup_logging(ranks.layout, config.observability.log_level, folder=folder)
    if note:
        logger.warning("%s", note)
    stack.enter_context(
        ranks.watch.writing(folder / "status", report_after_s=config.run.stall_report_s)
    )
    for line in warnings_of(config):
        logger.warning("%s", line)
    with name_free_if_it_never_starts(config, is_first=ranks.is_first):
        servers = start_servers(config, ranks, stack)
        trainer = build_trainer(config, ranks, stack, stop, servers, check_ownership)
    if checkpoint is not None:
        resume(trainer, checkpoint)
    elif config.run.resume:
        # Killed before its first checkpoint: the store may have seen steps that are now done again.
        ranks.run_on_leader(lambda: trainer.store.rollback({}))
    logger.info("ready after %.0f s: %s", time.monotonic() - started, ranks.layout.describe())
    stack.callback(trainer.progress.stop)
    state = trainer.run()
    is_done = state.step >= config.run.num_steps
    if is_done and config.checkpoint.export_hf:
        trainer.actor.export_hf(folder / "hf")
    ranks.run_on_first(lambda: mark_end(folder, state, is_done=is_done, reason=stop.reason))
    return state


def resume(trainer: Ar3poTrainer, checkpoint: Path) -> None:
    """Collective: everything stands where `checkpoint` left it."""
    state = read_state(checkpoint)
    trainer.actor.load(checkpoint / "model")
    trainer.prompts.restore(state.prompt_cursor)
    trainer.ranks.run_on_leader(lambda: trainer.store.rollback(state.store_cursor))
    trainer.metrics.totals.update(state.totals)
    trainer.state = state
    trainer.ranks.watch.steps_done = state.step
    trainer.saver.go_on_from(checkpoint)
    logger.info(
        "resumed from %s (step %d, policy version %d)", checkpoint, state.step, state.policy_version
    )


def own_run_folder(config: Config, ranks: Ranks, stack: ExitStack) -> Callable[[], None]:
    """Collective: the run's folder is this run's until `stack` ends. Raises where another process writes in it. Given
    back: a check for any rank, before it writes."""

    def claim() -> str:
        owner = FolderOwner.claim(config.run.path)
        stack.callback(owner.release)
        return owner.owner.token

    token = ranks.run_on_first(claim)
    return lambda: check_owner(config.run.path, token)


def checkpoint_folder(config: Config) -> CheckpointFolder:
    return CheckpointFolder(
        config.run.path / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        abandoned=config.checkpoint.abandoned,
    )


def build_trainer(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    stop: StopRequest,
    servers: list[RunServer],
    check_ownership: Callable[[], None],
) -> Ar3poTrainer:
    """Collective. Loads data and model while the servers start, then waits for them."""
    inputs = load_prompts_and_verifier(config, ranks, stack)
    prompts = PromptSource(inputs.training, seed=config.run.seed, shuffle=config.data.shuffle)
    prompts_per_round = config.algorithm.dynamic_sampling and config.algorithm.prompts_per_round
    prompts.check_batch(prompts_per_round or config.rollout.prompts_per_step)
    store = open_store(config, ranks, stack)
    actor, publisher = build_policy(config, ranks, stack, servers)
    with ranks.watch.phase("wait for servers"):
        ranks.run_on_leader(lambda: wait_until_ready(servers))
    router = start_router(config, ranks, stack, servers)
    rollout = ranks.only_on_leader(
        lambda: build_rollout(config, ranks, stack, inputs, servers, router)
    )
    folder = config.run.path
    metrics = Metrics(ranks, folder, tensorboard=config.observability.tensorboard)
    stack.callback(metrics.close)
    return Ar3poTrainer(
        config=config,
        ranks=ranks,
        prompts=prompts,
        sampler=build_sampler(config, ranks, prompts, rollout),
        store=store,
        lender=build_lender(config, store, rollout),
        policy_update=PolicyUpdate(actor, ranks, config, span=metrics.span),
        actor=actor,
        weight_publisher=publisher,
        colocation=build_colocation(config, ranks, actor, publisher, servers),
        evaluator=build_evaluator(config, ranks, inputs, rollout),
        metrics=metrics,
        recorder=RolloutRecorder(
            folder / "rollouts.jsonl",
            inputs.decode,
            num_groups=config.observability.record_groups_per_step,
            every_steps=config.observability.record_every_steps,
            is_silent=not ranks.is_first,
        ),
        dump=StepDump(folder / "dumps", ranks, steps=config.debug.dump_steps),
        saver=CheckpointSaver(
            checkpoint_folder(config),
            ranks,
            actor.save,
            lambda oldest: store.commit_checkpoint(oldest.store_cursor),
            timeout_s=config.checkpoint.timeout_s,
        ),
        stop=stop,
        check_ownership=check_ownership,
        progress=RunProgress(
            config.run.num_steps, config.run.progress, is_silent=not ranks.is_first
        ),
        state=RunState(),
    )
