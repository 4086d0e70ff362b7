"""The whole run: its folder, its parts, its loop, its end."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import warnings_of
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.folder_owner import FolderOwner, check_owner
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.timeline import Timeline
from megatron_ar3po.platform.garbage import keep_what_is_here
from megatron_ar3po.rollout.ledger_resume import LedgerState, take_up_ledger
from megatron_ar3po.rollout.response_log import count_logged
from megatron_ar3po.run.checkpoints import choose_checkpoint
from megatron_ar3po.run.folder import (
    begin_run,
    check_run_folder,
    find_finished,
    mark_end,
)
from megatron_ar3po.run.resume_comparison import Comparison, add_changes
from megatron_ar3po.run.row_files import check_row_files
from megatron_ar3po.run.state import RunState, StartingPoint, read_state
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.sampling_cost import Spent, metric_totals
from megatron_ar3po.wiring.parts import RunParts, build_parts, build_trainer, checkpoint_folder
from megatron_ar3po.wiring.response_log import log_folder
from megatron_ar3po.wiring.reuse_store import open_store
from megatron_ar3po.wiring.run_facts import compare_start
from megatron_ar3po.wiring.servers import ranks_per_node
from megatron_ar3po.wiring.shared_memory import check_shared_memory

if TYPE_CHECKING:
    from megatron_ar3po.servers.sglang_server import SglangServer
    from megatron_ar3po.trainer import Ar3poTrainer

logger = logging.getLogger(__name__)


def train(
    config: Config,
    ranks: Ranks,
    stack: ExitStack,
    stop: StopRequest,
    owner: FolderOwner | None,
    begun: SglangServer | None = None,
) -> RunState:
    """Collective over all ranks, each of which has passed `check_start`: the whole run. Writes RUN/DONE or RUN/STOPPED
    at its end. `owner`: of the run's folder, on rank 0. `begun`: its server, if that imports already."""
    started = time.monotonic()
    timeline = timeline_of_this_process()
    check_shared_memory(
        config, ranks, num_leaders=ranks_per_node(ranks) // config.actor.replica_size
    )
    folder = config.run.path
    ranks.run_on_first(lambda: check_run_folder(config))
    token = ranks.broadcast("" if owner is None else owner.owner.token)
    setup_logging(ranks.layout, config.observability.log_level, folder=folder)
    stack.enter_context(
        ranks.watch.writing(folder / "status", report_after_s=config.run.stall_report_s, run=token)
    )

    def check_ownership() -> None:
        """For any rank, before it writes: the run's folder is this run's still. Raises `FolderOwnedError`."""
        check_owner(folder, token)

    for line in warnings_of(config):
        logger.warning("%s", line)
    comparison = compare_start(config, ranks)
    if (finished := ranks.run_on_first(lambda: find_finished(config))) is not None:
        logger.info("%s is DONE after step %d: raise run.num_steps to go on", folder, finished.step)
        return finished
    with timeline.span("start"):
        start = choose_start(config, ranks, comparison)
        ranks.run_on_first(checkpoint_folder(config).check_room)
        parts = build_parts(config, ranks, stack, stop, start, check_ownership, timeline, begun)
        trainer = begin(config, ranks, stack, parts, start)
    logger.info("ready after %.0f s: %s", time.monotonic() - started, ranks.layout.describe())
    stack.callback(trainer.progress.stop)
    keep_what_is_here()
    state = trainer.run()
    is_done = state.step >= config.run.num_steps and not stop.fault
    ranks.run_on_first(check_ownership)
    if is_done and config.checkpoint.export_hf:
        trainer.actor.export_hf(folder / "hf")
    reason, steps_made = stop.fault or stop.reason, state.step - start.state.step
    ranks.run_on_first(
        lambda: mark_end(folder, state, is_done=is_done, reason=reason, steps_made=steps_made)
    )
    return state


def timeline_of_this_process() -> Timeline:
    """What it has done so far was reading its command and importing, all of it part of the start."""
    age_s = max(0.0, time.time() - psutil.Process().create_time())
    timeline = Timeline(age_s=age_s)
    timeline.add("start", age_s)
    timeline.add("start/imports", age_s)
    return timeline


def choose_start(config: Config, ranks: Ranks, comparison: Comparison) -> StartingPoint:
    """Collective. Raises where the run's folder cannot be gone on with. Changes nothing."""
    if not config.run.resume:
        return StartingPoint(facts=comparison.facts)
    checkpoint, note = choose_checkpoint(checkpoint_folder(config), ranks)
    if note:
        logger.warning("%s", note)
    state = read_state(checkpoint) if checkpoint is not None else RunState()
    for line in ranks.run_on_first(lambda: check_row_files(config.run.path, state.row_files)):
        logger.warning("%s", line)
    facts = add_changes(comparison.facts, comparison.changes, step=state.step)
    return StartingPoint(checkpoint=checkpoint, state=state, facts=facts)


def begin(
    config: Config, ranks: Ranks, stack: ExitStack, parts: RunParts, start: StartingPoint
) -> Ar3poTrainer:
    """Collective. The one place in which a start changes what an earlier run has left: all that can refuse it has been
    asked before. The reuse store goes first: it has most to do, and may meet a full disk."""
    ranks.run_on_first(parts.check_ownership)  # servers and model took their time
    with parts.timeline.span("store"):
        store = open_store(config, ranks, stack, parts.store_claim, start, parts.check_ownership)
    trainer = build_trainer(config, ranks, stack, parts, store, start)
    there = ranks.run_on_first(
        lambda: begin_run(config, start, take_up_ledger=lambda: take_up_cost(config, start))
    )
    if there is not None:
        trainer.metrics.totals.update(metric_totals(there.cost))
        if parts.rollout is not None:
            parts.rollout.ledger.go_on(there, is_first=ranks.is_first)
    if start.checkpoint is not None:
        trainer.saver.go_on_from(start.checkpoint)
        logger.info(
            "resumed from %s (step %d, policy version %d)",
            start.checkpoint,
            start.state.step,
            start.state.policy_version,
        )
    return trainer


def take_up_cost(config: Config, start: StartingPoint) -> LedgerState:
    """What the run has cost so far stays in its ledger."""
    totals = start.state.totals
    total = Spent(
        responses=int(totals.get("rollout/responses_total", 0)),
        tokens=int(totals.get("rollout/tokens_total", 0)),
    )
    logged = count_logged(log_folder(config), after_step=start.last_step)
    ledger = config.run.path / "ledger"
    return take_up_ledger(ledger, step=start.last_step, total=total, logged=logged)
