"""`Ar3poTrainer`: the step and the loop, nothing else. Every rank runs the same lines.

    prompts -> groups -> (reuse) -> samples with signal -> batch -> old log-probs -> update -> published weights

Ranks live in `distributed/`, memory in `colocation.py`, time in `metrics`; choices were made once in `train.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_ar3po.algorithm.advantages import checked_rewards
from megatron_ar3po.algorithm.response_reuse import responses_worth_keeping
from megatron_ar3po.algorithm.training_samples import (
    group_outcome,
    needs_the_whole_step,
    samples_with_signal,
    why_nothing_trains,
    with_kl_penalty,
)
from megatron_ar3po.colocation import Colocation
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.band import within_band
from megatron_ar3po.data.batch_builder import BatchBuilder
from megatron_ar3po.data.dump import save_samples
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.evaluation import Evaluator
from megatron_ar3po.interfaces import Actor, ReuseShard, StepSampler, WeightPublisher
from megatron_ar3po.observability.memory import peak_bytes
from megatron_ar3po.observability.metrics import Max, Mean, Metrics, Sum
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.observability.step_metrics import (
    band_records,
    group_records,
    loan_records,
    refuse_a_failing_verifier,
    reuse_records,
    rollout_records,
)
from megatron_ar3po.reuse.lender import Lender
from megatron_ar3po.run.checkpoints import CheckpointSaver
from megatron_ar3po.run.state import RunState
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.types import LoanOutcome, ResponseGroup, TrainingBatch, TrainingSample

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Ar3poTrainer:
    config: Config
    ranks: Ranks
    prompts: PromptSource
    sampler: StepSampler
    store: ReuseShard
    lender: Lender
    batch_builder: BatchBuilder
    actor: Actor
    weight_publisher: WeightPublisher
    colocation: Colocation
    evaluator: Evaluator
    metrics: Metrics
    recorder: RolloutRecorder
    saver: CheckpointSaver
    stop: StopRequest
    progress: RunProgress
    state: RunState

    def run(self) -> RunState:
        """Trains until the last step or until asked to stop; the last state is saved either way."""
        self.stop.loop_starts()
        self.publish_weights(self.state.policy_version)
        self.progress.start(self.state.step)
        if self.state.step == 0:
            self.evaluate()
            self.progress.step_done(0, self.metrics.flush(0))
        while self.state.step < self.config.run.num_steps and not self.ranks.any(
            self.stop.is_requested
        ):
            step = self.state.step + 1
            with self.metrics.span("step"):
                policy_version = self.train_step(step)
            self.state = self.state.advanced(policy_version=policy_version)
            if self.is_due(self.config.algorithm.reference_refresh_steps):
                self.actor.refresh_reference()
            if self.is_due(self.config.evaluation.every_steps) or self.is_last_step:
                self.evaluate()
            self.progress.step_done(step, self.metrics.flush(step))
            self.saver.poll()
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
        samples = self.samples_of(groups)
        self.observe_groups(step, groups, samples)
        with self.metrics.span("batch"):
            batch = self.batch_builder.build(samples)
        if batch.is_empty:
            logger.warning("step %d trains nothing: %s", step, why_nothing_trains(groups))
            return self.state.policy_version
        self.colocation.enter_train_phase()
        with self.metrics.span("train"):
            self.update_policy(batch, groups, step)
        self.publish_weights(self.state.policy_version + 1)
        return self.state.policy_version + 1

    def gather_groups(self, step: int) -> list[ResponseGroup]:
        """Leader only: adaptive rollout, then response reuse."""
        self.prompts.start_step()
        collected = self.sampler.collect(step=step, policy_version=self.state.policy_version)
        self.metrics.add_all(rollout_records(collected.groups, collected.discarded))
        self.metrics.add_all({name: Sum(count) for name, count in collected.counts.items()})
        self.metrics.add_all({name: Mean(s / w, w) for name, (s, w) in collected.means.items()})
        graded = [*collected.groups, *collected.discarded]
        for group in graded:
            checked_rewards(group)  # before anything is stored or trained on
        refuse_a_failing_verifier(graded, self.config.rewards.max_error_frac)
        prompts = {group.prompt.prompt_id: group.prompt for group in collected.groups}
        self.store.deposit(responses_worth_keeping(collected.groups), prompts=prompts, step=step)
        groups = self.lender.lend(
            collected.groups, step=step, policy_version=self.state.policy_version
        )
        self.sampler.record_loans(groups, step=step)
        self.metrics.add_all(reuse_records(collected.groups, groups, step=step))
        self.metrics.add_all({f"reuse/{n}": Sum(x) for n, x in self.lender.take_counts().items()})
        return groups

    def samples_of(self, groups: Sequence[ResponseGroup]) -> list[TrainingSample]:
        """What is relative to the whole step, and not to a group, sees the groups of all replicas."""
        whole_step = None
        if needs_the_whole_step(self.config.algorithm, self.config.reuse):
            whole_step = [g for part in self.ranks.gather_over_replicas(groups) for g in part]
        return samples_with_signal(
            groups, self.config.algorithm, self.config.reuse, whole_step=whole_step
        )

    def penalised(self, batch: TrainingBatch, groups: Sequence[ResponseGroup]) -> TrainingBatch:
        """The advantages of rewards less their KL penalty: only the actor, which has now seen the batch, knows it."""
        algorithm = self.config.algorithm
        if algorithm.kl_in == "loss" or algorithm.kl_coef == 0:
            return batch
        kl = self.actor.reference_kl(batch)
        penalised = [with_kl_penalty(group, kl, algorithm.kl_coef) for group in groups]
        samples = self.batch_builder.gather(self.samples_of(penalised))
        return batch.with_advantages({s.row_key: s.advantage for s in samples})

    def within_band(self, batch: TrainingBatch) -> tuple[TrainingBatch, list[LoanOutcome]]:
        """Option I becomes Option II for borrowed responses that are too unlike the policy of now."""
        batch, standing = within_band(
            batch,
            self.ranks,
            band=self.config.reuse.max_logprob_drift,
            aggregation=self.config.algorithm.loss_aggregation,
        )
        self.metrics.add_all(band_records(standing))
        return batch, standing

    def update_policy(
        self, batch: TrainingBatch, groups: Sequence[ResponseGroup], step: int
    ) -> None:
        with self.metrics.span("old_logprobs"):
            batch = self.actor.compute_logprobs(batch)  # frozen before the first mini-batch
            batch, standing = self.within_band(batch)
            batch = self.penalised(batch, groups)
        self.store.record_outcomes(standing, step=step)
        for mini_batch in batch.mini_batches:
            with self.metrics.span("update"):
                stats = self.actor.update(mini_batch)
            self.store.record_outcomes(stats.loans, step=step)
            self.metrics.add("actor/loss", Mean(stats.loss))
            self.metrics.add("actor/grad_norm", Mean(stats.grad_norm))
            self.metrics.add("actor/learning_rate", Mean(stats.learning_rate))
            self.metrics.add("actor/skipped_updates", Max(float(stats.was_skipped)))
            self.metrics.add_all({name: Mean(s / w, w) for name, (s, w) in stats.sums.items() if w})
            self.metrics.add_all({name: Max(value) for name, value in stats.maxima.items()})
        self.metrics.add("actor/tokens", Max(batch.num_tokens))
        self.metrics.add("actor/samples", Max(batch.num_samples))
        self.metrics.add("memory/peak_bytes", Max(peak_bytes()))

    def publish_weights(self, policy_version: int) -> None:
        self.colocation.enter_sync_phase()
        with self.metrics.span("publish"):
            facts = self.weight_publisher.publish(policy_version)
        self.metrics.add_all({name: Max(value) for name, value in facts.items()})

    def evaluate(self) -> None:
        if self.evaluator.has_prompts:
            self.colocation.enter_rollout_phase()
            with self.metrics.span("evaluation"):
                self.metrics.add_all(self.evaluator.evaluate(self.state.policy_version))

    def observe_groups(
        self, step: int, groups: Sequence[ResponseGroup], samples: Sequence[TrainingSample]
    ) -> None:
        num_signal = len({sample.group_position for sample in samples})
        self.metrics.add_all(group_records(groups, [group_outcome(g) for g in groups], num_signal))
        self.metrics.add_all(loan_records(groups, samples))
        if self.ranks.is_first:
            self.recorder.record(step, groups)
        if step in self.config.debug.dump_steps:
            everyone = self.batch_builder.gather(samples)
            if self.ranks.is_first:
                path = self.config.run.path / "dumps" / f"step_{step:05d}.pt"
                save_samples(path, everyone, step=step, policy_version=self.state.policy_version)

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
            cursor = self.ranks.run_on_leader(lambda: self.store.cursor)
            self.saver.start(
                replace(
                    self.state,
                    totals=dict(self.metrics.totals),
                    prompt_cursor=self.prompts.cursor,
                    store_cursor=cursor,
                )
            )
            if not self.config.checkpoint.in_background:
                self.saver.wait()
