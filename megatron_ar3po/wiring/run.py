"""The whole run: its folder, its parts, its loop, its end. The one place that puts the parts together."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.config.load import to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import warnings_of
from megatron_ar3po.data.batch_builder import BatchBuilder
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.observability.metrics import Metrics, drop_rows_after
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.reuse.choice import check_pick
from megatron_ar3po.rollout.history import PromptHistory
from megatron_ar3po.rollout.ledger_file import abandon_rows_after
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.run_state import (
    CheckpointFolder,
    CheckpointSaver,
    RunState,
    read_state,
    write_durably,
)
from megatron_ar3po.stop_request import StopRequest
from megatron_ar3po.trainer import Ar3poTrainer
from megatron_ar3po.wiring.language import load_language
from megatron_ar3po.wiring.policy import build_colocation, build_policy
from megatron_ar3po.wiring.reuse_store import build_lender, open_store
from megatron_ar3po.wiring.sampling import build_controller, build_evaluator, build_sampler
from megatron_ar3po.wiring.servers import (
    RunServer,
    check_routing,
    start_router,
    start_servers,
    wait_for,
)

logger = logging.getLogger(__name__)


def train(config: Config, ranks: Ranks, stack: ExitStack, stop: StopRequest) -> RunState:
    """Collective over all ranks: the whole run. Writes RUN/DONE or RUN/STOPPED at its end."""
    started = time.monotonic()
    check_custom_functions(config.algorithm)
    check_pick(config.reuse)
    make_stage_rule(config.rollout, PromptHistory())  # a user's own is imported now
    check_routing(config)
    folder = config.run.path
    checkpoint = ranks.run_on_first(lambda: open_run_folder(config))
    setup_logging(ranks.layout, config.observability.log_level, folder=folder)
    stack.enter_context(
        ranks.watch.writing(folder / "status", report_after_s=config.run.stall_report_s)
    )
    for line in warnings_of(config):
        logger.warning("%s", line)
    with name_free_if_it_never_starts(config, is_first=ranks.is_first):
        servers = start_servers(config, ranks, stack)
        trainer = build_trainer(config, ranks, stack, stop, servers)
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


def open_run_folder(config: Config) -> Path | None:
    """Makes RUN, or finds the checkpoint to go on from. Rank 0 only."""
    folder = config.run.path
    checkpoint = CheckpointFolder(folder / "checkpoints", keep_last=1).latest()
    if not config.run.resume and (folder / "resolved_config.yaml").exists():
        raise ValueError(
            f"run.dir={folder} already holds a run; set run.resume=true to go on with it, or choose another run.name "
            "or run.dir."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for marker in ("DONE", "STOPPED"):
            (folder / marker).unlink(missing_ok=True)
        shutil.rmtree(folder / "status", ignore_errors=True)  # of the ranks before a resume
        write_durably(folder / "resolved_config.yaml", to_yaml(config))
    except OSError as error:  # a user can mend it: no rights, no space, a file in the way
        raise ValueError(
            f"run.dir={folder} cannot be written ({error.strerror}: {error.filename or folder}); make room or mend its "
            "permissions, or choose another run.dir."
        ) from error
    if config.run.resume:
        step = read_state(checkpoint).step if checkpoint else -1
        for written in ("metrics.jsonl", "rollouts.jsonl"):
            drop_rows_after(folder / written, step)
        for written in folder.glob("ledger/*.jsonl"):
            abandon_rows_after(written, step)  # what was done twice has cost twice
        if not checkpoint:
            logger.info("run.resume=true, but %s holds no checkpoint: starting anew", folder)
    return checkpoint


@contextmanager
def name_free_if_it_never_starts(config: Config, *, is_first: bool) -> Iterator[None]:
    """What fails here has sampled and trained nothing: once it is mended, the same command starts the run."""
    try:
        yield
    except BaseException:
        if is_first and not config.run.resume:
            (config.run.path / "resolved_config.yaml").unlink(missing_ok=True)
        raise


def resume(trainer: Ar3poTrainer, checkpoint: Path) -> None:
    """Collective: everything stands where `checkpoint` left it."""
    state = read_state(checkpoint)
    trainer.actor.load(checkpoint / "model")
    trainer.prompts.restore(state.prompt_cursor)
    trainer.ranks.run_on_leader(lambda: trainer.store.rollback(state.store_cursor))
    trainer.metrics.totals.update(state.totals)
    trainer.state = state
    trainer.ranks.watch.steps_done = state.step
    logger.info(
        "resumed from %s (step %d, policy version %d)", checkpoint, state.step, state.policy_version
    )


def mark_end(folder: Path, state: RunState, *, is_done: bool, reason: str) -> None:
    content = {"step": state.step, "policy_version": state.policy_version, "reason": reason}
    write_durably(folder / ("DONE" if is_done else "STOPPED"), json.dumps(content) + "\n")


def build_trainer(
    config: Config, ranks: Ranks, stack: ExitStack, stop: StopRequest, servers: list[RunServer]
) -> Ar3poTrainer:
    """Collective. Loads data and model while the servers start, then waits for them."""
    language = load_language(config, ranks, stack)
    prompts = PromptSource(language.training, seed=config.run.seed, shuffle=config.data.shuffle)
    prompts_per_round = config.algorithm.dynamic_sampling and config.algorithm.prompts_per_round
    prompts.check_batch(prompts_per_round or config.rollout.prompts_per_step)
    store = open_store(config, ranks, stack)
    actor, publisher = build_policy(config, ranks, stack, servers)
    with ranks.watch.phase("wait for servers"):
        ranks.run_on_leader(lambda: wait_for(servers))
    router = start_router(config, ranks, stack, servers)
    controller, ledger = build_controller(config, ranks, stack, language, servers, router)
    folder = config.run.path
    metrics = Metrics(ranks, folder, tensorboard=config.observability.tensorboard)
    stack.callback(metrics.close)
    return Ar3poTrainer(
        config=config,
        ranks=ranks,
        prompts=prompts,
        sampler=build_sampler(config, ranks, prompts, controller, ledger),
        store=store,
        lender=build_lender(config, store, controller, ledger),
        batch_builder=BatchBuilder(ranks, config.algorithm, config.actor),
        actor=actor,
        weight_publisher=publisher,
        colocation=build_colocation(config, ranks, actor, publisher, servers),
        evaluator=build_evaluator(config, ranks, language, controller, ledger),
        metrics=metrics,
        recorder=RolloutRecorder(
            folder / "rollouts.jsonl",
            language.decode,
            num_groups=config.observability.record_groups_per_step,
            every_steps=config.observability.record_every_steps,
        ),
        saver=CheckpointSaver(
            CheckpointFolder(folder / "checkpoints", keep_last=config.checkpoint.keep_last),
            ranks,
            actor.save,
            lambda oldest: store.commit_checkpoint(oldest.store_cursor),
            timeout_s=config.checkpoint.timeout_s,
        ),
        stop=stop,
        progress=RunProgress(
            config.run.num_steps, config.run.progress, is_silent=not ranks.is_first
        ),
        state=RunState(),
    )
