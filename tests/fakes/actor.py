"""An `Actor` without a model: its log-probs are the server's, its updates are counted, and what it was asked is written
down in the order in which it was asked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.records import Max, Mean, Records
from megatron_ar3po.types import MiniBatch, RowKey, TrainingBatch, TrainingSample
from megatron_ar3po.update_stats import LoanOutcome, UpdateStats, tell_loan


class WrittenSave:
    """A checkpoint that was on the disk at once."""

    def is_written(self) -> bool:
        return True

    def finish(self) -> Mapping[str, FileDigest]:
        return {}


@dataclass
class FakeActor:
    events: list[str] = field(default_factory=list)
    drift: float = 0.0  # of every token's log-prob, against the server's
    kl: Mapping[RowKey, float] = field(default_factory=dict)
    skipped: Collection[int] = ()  # updates, counted from 1, whose loss is NaN
    mismatches: Sequence[float] = ()  # with the servers, one for each update that measures it
    entropies: Sequence[float] = ()  # of the policy, one for each update that measures it
    updated: list[MiniBatch] = field(default_factory=list)
    entropy_coefs: list[float | None] = field(default_factory=list)  # that the updates were given
    saved: list[Path] = field(default_factory=list)

    def compute_logprobs(self, batch: TrainingBatch) -> TrainingBatch:
        if not batch.needs_pass:
            return batch
        self.events.append("old_logprobs")
        return batch.with_old_logprobs(
            [(mb.behaviour_logprobs + self.drift) * mb.loss_mask for mb in batch.needs_pass]
        )

    def reference_kl(self, batch: TrainingBatch) -> Mapping[RowKey, float]:
        self.events.append("reference_kl")
        return self.kl

    def refresh_reference(self) -> None:
        self.events.append("refresh_reference")

    def update(self, mini_batch: MiniBatch, *, entropy_coef: float | None = None) -> UpdateStats:
        self.events.append("update")
        self.entropy_coefs.append(entropy_coef)
        self.updated.append(mini_batch)
        if len(self.updated) in self.skipped:
            ratio = 1.0 if math.isfinite(self.drift) else math.nan
            return UpdateStats(
                loss=float("nan"),
                grad_norm=0.5,
                learning_rate=1e-4,
                was_skipped=True,
                token_records=Records({"actor/ratio_mean": Mean(ratio)}),
            )
        num_tokens = sum(int(mb.loss_mask.sum()) for mb in mini_batch.micro_batches)
        return UpdateStats(
            loss=float(len(self.updated)),
            grad_norm=0.5,
            learning_rate=1e-4,
            was_skipped=False,
            token_records=Records(
                {
                    "actor/ratio_mean": Mean(1.0, num_tokens),
                    **self._mismatch(),
                    **self._entropy(num_tokens),
                }
            ),
            loans=tuple(
                loan
                for s in mini_batch.samples
                if s.origin == "reused" and (loan := self._tell_loan(s, mini_batch))
            ),
        )

    def _entropy(self, num_tokens: int) -> Records:
        if len(self.updated) > len(self.entropies):
            return Records()
        return Records({"actor/entropy": Mean(self.entropies[len(self.updated) - 1], num_tokens)})

    def _mismatch(self) -> Records:
        if len(self.updated) > len(self.mismatches):
            return Records()
        mean = self.mismatches[len(self.updated) - 1]
        return Records(
            {"mismatch/logprob_abs_mean": Mean(mean), "mismatch/logprob_abs_max": Max(2 * mean)}
        )

    def _tell_loan(self, sample: TrainingSample, mini_batch: MiniBatch) -> LoanOutcome | None:
        """One token, ratio 1."""
        is_own = mini_batch.old_logprobs_from == "update"
        row = (1.0, 1.0, 0.0, abs(self.drift))
        return tell_loan(sample, row, measures_drift=is_own, was_skipped=False)

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, Tensor]]]:
        return iter(())

    def save(self, folder: Path) -> WrittenSave:
        self.events.append("save")
        self.saved.append(folder)
        return WrittenSave()

    def load(self, folder: Path) -> None:
        self.events.append("load")

    def export_hf(self, folder: Path) -> None:
        self.events.append("export_hf")

    def offload(self, *, keep_weights: bool = False) -> None:
        self.events.append("offload")

    def onload(self, *, gradients: bool = True) -> None:
        self.events.append("onload")
