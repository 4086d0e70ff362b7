"""`Ar3poTrainer`: the step and the loop, nothing else. Every rank runs the same lines.

    prompts -> groups -> (reuse) -> samples with signal, replayed rows -> batch -> old log-probs -> update -> publish

Ranks live in `distributed/`, memory in `colocation.py`, time in `metrics`; choices were made once in `wiring/`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from megatron_ar3po.algorithm.training_samples import why_nothing_trains
from megatron_ar3po.algorithm.verdict_checks import check_verdicts
from megatron_ar3po.colocation import Colocation
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.dump import StepDump
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.evaluator import Evaluator
from megatron_ar3po.interfaces import (
    Actor,
    PromptOrder,
    Replay,
    ReuseShard,
    StepSampler,
    WeightPublisher,
)
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.observability.step_metrics import group_records, loan_records
from megatron_ar3po.observability.step_profile import StepProfiles
from megatron_ar3po.policy_update import PolicyUpdate
from megatron_ar3po.reuse.lender import Lender
from megatron_ar3po.run.checkpoints import CheckpointSaver
from megatron_ar3po.run.state import RunState
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.types import ResponseGroup, TrainingSample

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Ar3poTrainer:
    config: Config
    ranks: Ranks
    prompts: PromptOrder
    sampler: StepSampler
    store: ReuseShard
    lender: Lender
    replay: Replay
    policy_update: PolicyUpdate
    actor: Actor
    weight_publisher: WeightPublisher
    colocation: Colocation
    evaluator: Evaluator
    metrics: Metrics
    recorder: RolloutRecorder
    dump: StepDump
    profiles: StepProfiles
    saver: CheckpointSaver
    stop: StopRequest
    progress: RunProgress
    check_ownership: Callable[[], None]  # raises where another process has taken the folder over
    state: RunState
    is_new: bool  # starts anew; a run that goes on from a checkpoint, even of step 0, has been evaluated

    def run(self) -> RunState:
        """Trains until the last step or until asked to stop; the last state is saved either way."""
        self.stop.loop_starts()
        with self.progress.doing("the first weights to the servers"), self.metrics.span("start"):
            self.publish_weights(self.state.policy_version, is_recorded=self.is_new)
        self.progress.start(self.state.step)
        if self.is_new:
            self.evaluate()
            self.close_step()
        while not self.is_last_step and not self.stop.agree(self.ranks):
            step = self.state.step + 1
            with self.profiles.profile(step), self.metrics.span("step"):
                self.state = self.state.advance(policy_version=self.train_step(step))
            if self.is_due(self.config.algorithm.reference_refresh_steps):
                self.actor.refresh_reference()
            by_cost = self.metrics.responses_pass(self.config.evaluation.every_responses)
            if by_cost or self.is_due(self.config.evaluation.every_steps) or self.is_last_step:
                self.evaluate()
            self.close_step()
            if self.is_due(self.config.checkpoint.every_steps) or self.is_last_step:
                self.save()
        if not self.is_last_step:
            self.save()
        self.saver.wait()
        return self.state

    def train_step(self, step: int) -> int:
        """One arrow of the pipe after the other; returns the version of the policy that the servers now hold."""
        self.colocation.enter_rollout_phase()
        with self.metrics.span("rollout"):
            groups = self.ranks.run_on_leader(lambda: self.gather_groups(step))
            self.ranks.run_on_leader(lambda: self.sampler.learn(step))
        samples = self.policy_update.make_samples(groups)
        self.metrics.add(group_records(groups, samples), loan_records(groups, samples))
        self.recorder.record(step, groups, samples)
        self.dump.write(groups, step=step, policy_version=self.state.policy_version)
        samples = [*samples, *self.replay_rows(samples, groups, step)]
        batch = self.policy_update.build_batch(samples, groups)
        if batch.is_empty:
            logger.warning("step %d trains nothing: %s", step, why_nothing_trains(groups))
            return self.state.policy_version
        self.colocation.enter_train_phase()
        with self.metrics.span("train"):
            report = self.policy_update.run(batch, groups)
        self.metrics.add(report.records)
        self.store.record_outcomes(report.loans, step=step)
        self.stop.fault = report.fault
        return self.publish_weights(self.state.policy_version + report.has_trained)

    def gather_groups(self, step: int) -> list[ResponseGroup]:
        """Leader only: adaptive rollout, then response reuse."""
        version = self.state.policy_version
        self.check_ownership()
        self.prompts.start_step()
        collected = self.sampler.collect(step=step, policy_version=version)
        self.check_ownership()
        check_verdicts(collected.graded, max_error_frac=self.config.rewards.max_error_frac)
        self.lender.deposit(collected.groups, step=step)
        lent = self.lender.lend(collected.groups, step=step, policy_version=version)
        self.sampler.record_loans(lent.groups, step=step)
        self.metrics.add(collected.records, lent.records, self.store.records, self.prompts.records)
        return lent.groups

    def replay_rows(
        self, samples: Sequence[TrainingSample], groups: Sequence[ResponseGroup], step: int
    ) -> Sequence[TrainingSample]:
        """Collective: rows of earlier steps that train beside `samples`."""
        if not self.config.reuse.replay_frac:
            return []
        with self.metrics.span("replay"):
            rows = self.ranks.run_on_leader(lambda: self.replay.draw(samples, groups, step=step))
        self.metrics.add(self.replay.records)
        return rows

    def publish_weights(self, policy_version: int, *, is_recorded: bool = True) -> int:
        self.colocation.enter_sync_phase()
        with self.metrics.span("publish"):
            records = self.weight_publisher.publish(policy_version)
        self.metrics.add(records if is_recorded else {})  # a resume's first one is no step's
        return policy_version

    def evaluate(self) -> None:
        if self.evaluator.has_prompts:
            self.colocation.enter_rollout_phase()
            step, policy_version = self.state.step, self.state.policy_version
            doing = self.progress.doing(f"evaluating after step {step}")
            with doing, self.metrics.span("evaluation"):
                self.metrics.add(self.evaluator.evaluate(step=step, policy_version=policy_version))

    def close_step(self) -> None:
        """The step's numbers are reduced, written and shown; a checkpoint that has been written is committed."""
        self.ranks.run_on_first(self.check_ownership)
        self.progress.step_done(self.state.step, self.metrics.flush(self.state.step))
        self.ranks.watch.steps_done = self.state.step
        self.saver.poll()

    def is_due(self, every_steps: int) -> bool:
        return every_steps > 0 and self.state.step % every_steps == 0

    @property
    def is_last_step(self) -> bool:
        return self.state.step >= self.config.run.num_steps

    def save(self) -> None:
        """Collective: model, optimizer, store cursor and run state become one checkpoint, whole or not at all. The next
        step may begin while it is written."""
        self.colocation.enter_save_phase()
        with self.metrics.span("checkpoint"):
            self.ranks.run_on_leader(self.replay.sync)
            state = replace(
                self.state,
                totals=dict(self.metrics.totals),
                prompt_cursor=dict(self.prompts.cursor),
                policy_digest=self.policy_update.digest.value,
                entropy_floor=self.policy_update.entropy_floor.state,
                store_cursor=self.ranks.run_on_leader(lambda: self.store.cursor),
            )
            self.saver.start(state)
            if not self.config.checkpoint.in_background:
                self.saver.wait()
