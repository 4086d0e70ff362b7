"""`PolicyUpdate`: one step's groups make one change of the policy. Every rank runs the same lines.

    groups -> samples with signal -> batch -> old log-probs -> drift check -> KL penalty -> mini-batches

The trainer, `debug.mode=train_only` and the tests all come through here, so an update has one form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from megatron_ar3po.algorithm.training_samples import (
    needs_the_whole_step,
    samples_with_signal,
    with_kl_penalty,
)
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.batch_builder import BatchBuilder
from megatron_ar3po.data.drift import detach_drifted
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Actor
from megatron_ar3po.observability.memory import peak_bytes
from megatron_ar3po.observability.step_metrics import drift_records
from megatron_ar3po.records import Max, Records
from megatron_ar3po.types import (
    LoanOutcome,
    ResponseGroup,
    TrainingBatch,
    TrainingSample,
    UpdateStats,
)

Span = Callable[[str], AbstractContextManager[None]]  # times what runs inside, under a name


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What an update came to, the same on every rank."""

    batch: TrainingBatch  # as it trained: log-probs filled in, without the borrowed responses that drifted too far
    stats: tuple[UpdateStats, ...]  # one for each optimizer step
    loans: tuple[LoanOutcome, ...]  # how every borrowed response trained, part by part
    records: Records


class PolicyUpdate:
    def __init__(
        self,
        actor: Actor,
        ranks: Ranks,
        config: Config,
        *,
        span: Span = lambda name: nullcontext(),
    ) -> None:
        self._actor = actor
        self._ranks = ranks
        self._algorithm = config.algorithm
        self._reuse = config.reuse
        self._builder = BatchBuilder(ranks, config.algorithm, config.actor)
        self._span = span

    def make_samples(self, groups: Sequence[ResponseGroup]) -> list[TrainingSample]:
        """Collective. `groups`: those of this replica. What is relative to the whole step, and not to a group, sees the
        groups of all replicas."""
        whole_step = None
        if needs_the_whole_step(self._algorithm, self._reuse):
            whole_step = [g for part in self._ranks.gather_over_replicas(groups) for g in part]
        return samples_with_signal(groups, self._algorithm, self._reuse, whole_step=whole_step)

    def build_batch(self, samples: Sequence[TrainingSample]) -> TrainingBatch:
        """Collective. `samples`: those of this replica; empty when no replica has one."""
        with self._span("batch"):
            return self._builder.build(samples)

    def run(self, batch: TrainingBatch, groups: Sequence[ResponseGroup]) -> UpdateReport:
        """Collective. `batch` was built from the samples of `groups`; the actor's weights are where it trains them."""
        with self._span("old_logprobs"):
            batch = self._actor.compute_logprobs(batch)  # frozen before the first mini-batch
            batch, drifts = detach_drifted(
                batch,
                self._ranks,
                max_drift=self._reuse.max_logprob_drift,
                aggregation=self._algorithm.loss_aggregation,
            )
            batch = self._penalize(batch, groups)
        records = drift_records(drifts)
        stats: list[UpdateStats] = []
        for mini_batch in batch.mini_batches:
            with self._span("update"):
                stats.append(self._actor.update(mini_batch))
            records.add_all(stats[-1].records)
        records.add("actor/tokens", Max(batch.num_tokens))
        records.add("actor/samples", Max(batch.num_samples))
        records.add("memory/peak_bytes", Max(peak_bytes()))
        loans = (*drifts, *(loan for each in stats for loan in each.loans))
        return UpdateReport(batch=batch, stats=tuple(stats), loans=loans, records=records)

    def _penalize(self, batch: TrainingBatch, groups: Sequence[ResponseGroup]) -> TrainingBatch:
        """The advantages of rewards less their KL penalty: only the actor, which has now seen the batch, knows it."""
        if self._algorithm.kl_in == "loss" or self._algorithm.kl_coef == 0:
            return batch
        kl = self._actor.reference_kl(batch)
        penalized = [with_kl_penalty(group, kl, self._algorithm.kl_coef) for group in groups]
        samples = self._builder.gather(self.make_samples(penalized))
        return batch.with_advantages({s.row_key: s.advantage for s in samples})
