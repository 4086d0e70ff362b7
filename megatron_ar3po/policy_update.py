"""`PolicyUpdate`: one step's groups make one change of the policy. Every rank runs the same lines.

    groups -> samples with signal -> batch -> old log-probs -> drift check -> KL penalty -> mini-batches

The old log-probs need a forward pass of their own only where the update's own does not give them
(algorithm/old_logprobs.py): with one mini-batch, no KL in the reward and no limit on the drift of borrowed responses
there is none.

The trainer, `debug.mode=train_only` and the tests all come through here, so an update has one form.

An update whose loss or gradient is not finite is skipped on all ranks: weights, optimizer and schedule stay as they
were, and it is counted (`actor/skipped_updates`). More than `actor.max_skipped_updates` of them in a row are a fault of
the run, reported in one sentence; the caller saves what is there and ends.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_ar3po.algorithm.entropy_floor import EntropyFloor
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
from megatron_ar3po.observability.timeline import Span, no_span
from megatron_ar3po.records import Max, Records
from megatron_ar3po.run.policy_digest import PolicyDigest
from megatron_ar3po.types import MiniBatch, ResponseGroup, TrainingBatch, TrainingSample
from megatron_ar3po.update_stats import LoanOutcome, UpdateStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What an update came to, the same on every rank."""

    batch: TrainingBatch  # as it trained: log-probs filled in, without the borrowed responses that drifted too far
    stats: tuple[UpdateStats, ...]  # one for each optimizer step
    loans: tuple[LoanOutcome, ...]  # how every borrowed response trained, part by part
    records: Records
    fault: str = ""  # why the run must not go on: too many skipped updates in a row

    @property
    def has_trained(self) -> bool:
        """Whether the policy is another one now."""
        return not all(stats.was_skipped for stats in self.stats)


class PolicyUpdate:
    def __init__(
        self,
        actor: Actor,
        ranks: Ranks,
        config: Config,
        *,
        span: Span = no_span,
        digest: PolicyDigest | None = None,
        entropy_floor: EntropyFloor | None = None,
    ) -> None:
        """`digest`: of what the policy was trained on before. `entropy_floor`: as a checkpoint left it."""
        self._actor = actor
        self._ranks = ranks
        self._algorithm = config.algorithm
        self._reuse = config.reuse
        self._builder = BatchBuilder(ranks, config.algorithm, config.actor, config.reuse)
        self.digest = digest or PolicyDigest(config)
        self.entropy_floor = entropy_floor or EntropyFloor(config.algorithm)
        self._span = span
        self._max_skipped = config.actor.max_skipped_updates
        self._skipped_in_a_row = 0
        self._max_mismatch = config.observability.max_logprob_mismatch
        self._is_mismatched = False
        self._dtype = config.model.dtype

    def make_samples(self, groups: Sequence[ResponseGroup]) -> list[TrainingSample]:
        """Collective. `groups`: those of this replica. What is relative to the whole step, and not to a group, sees the
        groups of all replicas."""
        with self._span("samples"):
            whole_step = None
            if needs_the_whole_step(self._algorithm, self._reuse):
                whole_step = [g for part in self._ranks.gather_over_replicas(groups) for g in part]
            return samples_with_signal(groups, self._algorithm, self._reuse, whole_step=whole_step)

    def build_batch(
        self, samples: Sequence[TrainingSample], groups: Sequence[ResponseGroup]
    ) -> TrainingBatch:
        """Collective. `samples`, made of `groups`: those of this replica; empty when no replica has one."""
        with self._span("batch"):
            return self._builder.build(samples, groups)

    def run(self, batch: TrainingBatch, groups: Sequence[ResponseGroup]) -> UpdateReport:
        """Collective. `batch` was built from the samples of `groups`; the actor's weights are where it trains them."""
        with self._span("old_logprobs"):
            batch = self._actor.compute_logprobs(batch)  # frozen before the first mini-batch
            batch, drifts = detach_drifted(
                batch,
                self._ranks,
                max_drift=self._reuse.max_logprob_drift,
                aggregation=None
                if self._algorithm.denominator == "all"
                else self._algorithm.loss_aggregation,
            )
            batch = self._penalize(batch, groups)
        records = self.entropy_floor.records
        stats: list[UpdateStats] = []
        for mini_batch in batch.mini_batches:
            with self._span("update"):
                coef = self.entropy_floor.coef
                stats.append(self._actor.update(mini_batch, entropy_coef=coef))
            records.add_all(stats[-1].records)
            self._count(stats[-1], mini_batch)
            if not stats[-1].was_skipped:
                self.digest.advance(mini_batch.samples)
        if (entropy := records.get("actor/entropy")) is not None:
            self.entropy_floor.observe(entropy.value)
        records.add("actor/skipped_updates", Max(sum(each.was_skipped for each in stats)))
        records.add("actor/tokens", Max(batch.num_tokens))
        records.add("actor/samples", Max(batch.num_samples))
        records.add("memory/peak_bytes", Max(peak_bytes()))
        loans = (*drifts, *(loan for each in stats for loan in each.loans))
        records.add_all(drift_records(loans))
        self._warn_of_mismatch(records)
        fault = (
            self._describe_fault(stats[-1]) if self._skipped_in_a_row > self._max_skipped else ""
        )
        return UpdateReport(
            batch=batch, stats=tuple(stats), loans=loans, records=records, fault=fault
        )

    def _count(self, stats: UpdateStats, mini_batch: MiniBatch) -> None:
        """Collective where the update was skipped: a rank may hold what the others do not see."""
        if not stats.was_skipped:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        found = sorted({n for part in self._ranks.gather(_not_finite(mini_batch)) for n in part})
        reason = "all it was made of is finite"
        if found:
            reason = f"not finite before it: {', '.join(found)}"
        elif _has_odd_logprobs(stats):
            reason = "not finite in it: the log-probs of its own forward pass"
        if self._ranks.is_first:
            logger.warning(
                "an update was skipped: its loss is %g, its gradient norm %g; %s (%d in a row; "
                "actor.max_skipped_updates=%d)",
                stats.loss,
                stats.grad_norm,
                reason,
                self._skipped_in_a_row,
                self._max_skipped,
            )

    def _warn_of_mismatch(self, records: Records) -> None:
        """When it rises above the limit, and not again until it has been below. `records` are the same on all ranks."""
        mean = records.get("mismatch/logprob_abs_mean")
        if mean is None:  # no fresh response trained
            return
        was_mismatched = self._is_mismatched
        self._is_mismatched = mean.value > self._max_mismatch > 0
        if self._is_mismatched and not was_mismatched and self._ranks.is_first:
            logger.warning(
                "mismatch/logprob_abs_mean=%.3g is above observability.max_logprob_mismatch=%g: with the same weights, "
                "servers and actor disagree so much about the log-prob of a token, by %.3g about the worst one. "
                "weight_sync.verify=true says whether the weights arrive whole; servers.sglang must compute in "
                "model.dtype=%s; what remains algorithm.importance_sampling=token corrects. No more of this until it "
                "has been below.",
                mean.value,
                self._max_mismatch,
                records["mismatch/logprob_abs_max"].value,
                self._dtype,
            )

    def _describe_fault(self, last: UpdateStats) -> str:
        return (
            f"{self._skipped_in_a_row} updates in a row had a loss or a gradient that is not finite and were skipped "
            f"(actor.max_skipped_updates={self._max_skipped}; the last: loss {last.loss:g}, gradient norm "
            f"{last.grad_norm:g}); the weights are those before them. Look at actor/ratio_max, actor/grad_norm and "
            "mismatch/logprob_abs_max of the steps before, and in the log for what was not finite first; lower "
            "actor.learning_rate where they grew, mend the function where it is one of your own, then resume."
        )

    def _penalize(self, batch: TrainingBatch, groups: Sequence[ResponseGroup]) -> TrainingBatch:
        """The advantages of rewards less their KL penalty: only the actor, which has now seen the batch, knows it."""
        if self._algorithm.kl_in == "loss" or self._algorithm.kl_coef == 0:
            return batch
        kl = self._actor.reference_kl(batch)
        penalized = [with_kl_penalty(group, kl, self._algorithm.kl_coef) for group in groups]
        samples = self._builder.gather(self.make_samples(penalized))
        return batch.with_advantages({s.row_key: s.advantage for s in samples})


def _has_odd_logprobs(stats: UpdateStats) -> bool:
    ratio = stats.token_records.get("actor/ratio_mean")
    return ratio is not None and not math.isfinite(ratio.value)


def _not_finite(mini_batch: MiniBatch) -> list[str]:
    """Of this rank: names of what the loss is made of in which a response token has a value that is not finite."""
    names = ("advantages", "weights", "behaviour_logprobs", "old_logprobs", "reference_logprobs")
    found = set()
    for micro in mini_batch.micro_batches:
        for name in names:
            values = getattr(micro, name)
            if values is not None and not torch.isfinite(values[micro.loss_mask > 0]).all():
                found.add(name)
    return sorted(found)
