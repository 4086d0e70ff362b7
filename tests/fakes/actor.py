"""An `Actor` without a model: its log-probs are the server's, its updates are counted, and what it was asked is written
down in the order in which it was asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.records import Mean, Records
from megatron_ar3po.types import MiniBatch, RowKey, TrainingBatch
from megatron_ar3po.update_stats import LoanOutcome, UpdateStats


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
    updated: list[MiniBatch] = field(default_factory=list)
    saved: list[Path] = field(default_factory=list)

    def compute_logprobs(self, batch: TrainingBatch) -> TrainingBatch:
        self.events.append("old_logprobs")
        return batch.with_old_logprobs(
            [(mb.behaviour_logprobs + self.drift) * mb.loss_mask for mb in batch.micro_batches]
        )

    def reference_kl(self, batch: TrainingBatch) -> Mapping[RowKey, float]:
        self.events.append("reference_kl")
        return self.kl

    def refresh_reference(self) -> None:
        self.events.append("refresh_reference")

    def update(self, mini_batch: MiniBatch) -> UpdateStats:
        self.events.append("update")
        self.updated.append(mini_batch)
        if len(self.updated) in self.skipped:
            return UpdateStats(
                loss=float("nan"), grad_norm=0.5, learning_rate=1e-4, was_skipped=True
            )
        num_tokens = sum(int(mb.loss_mask.sum()) for mb in mini_batch.micro_batches)
        return UpdateStats(
            loss=float(len(self.updated)),
            grad_norm=0.5,
            learning_rate=1e-4,
            was_skipped=False,
            token_records=Records({"actor/ratio_mean": Mean(1.0, num_tokens)}),
            loans=tuple(
                LoanOutcome(position=s.group_position, response_id=s.response_id, ratio=1.0)
                for s in mini_batch.samples
                if s.origin == "reused"
            ),
        )

    def hf_buckets(self, max_bytes: int) -> Iterator[Sequence[tuple[str, Tensor]]]:
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

    def onload(self) -> None:
        self.events.append("onload")
