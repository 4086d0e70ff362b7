"""The loop without a trainer behind it (debug.mode=rollout_only): the policy stays what the server loaded.

Stands where actor and publisher stand, so that the loop itself has no second form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.records import Record
from megatron_ar3po.types import MiniBatch, RowKey, TrainingBatch
from megatron_ar3po.update_stats import UpdateStats

if TYPE_CHECKING:
    from torch import Tensor


class NoOpActor:
    """Computes nothing and learns nothing."""

    def compute_logprobs(self, batch: TrainingBatch) -> TrainingBatch:
        return batch

    def reference_kl(self, batch: TrainingBatch) -> Mapping[RowKey, float]:
        return {}

    def refresh_reference(self) -> None:
        pass

    def update(self, mini_batch: MiniBatch, *, entropy_coef: float | None = None) -> UpdateStats:
        return UpdateStats(loss=0.0, grad_norm=0.0, learning_rate=0.0, was_skipped=False)

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, Tensor]]]:
        return iter(())

    def save(self, folder: Path) -> NothingToWrite:
        return NothingToWrite()

    def load(self, folder: Path) -> None:
        pass

    def export_hf(self, folder: Path) -> None:
        pass

    held = frozenset[str]()

    def offload(self, *, keep_weights: bool = False) -> None:
        pass

    def onload(self, *, gradients: bool = True) -> None:
        pass


class NothingToWrite:
    def is_written(self) -> bool:
        return True

    def finish(self) -> Mapping[str, FileDigest]:
        return {}


class NoOpPublisher:
    """The servers keep the weights they loaded and only learn which version to state in their responses."""

    def __init__(self, ranks: Ranks, announce: Callable[[int], None]) -> None:
        self._ranks = ranks
        self._announce = announce
        self._version = 0

    def publish(self, policy_version: int) -> Mapping[str, Record]:
        self._version = policy_version
        self._ranks.run_on_leader(lambda: self._announce(policy_version))
        return {}

    def republish(self, url: str) -> None:
        """Collective over one replica: a server that was started anew has the weights already."""
        if self._ranks.is_leader:
            self._announce(self._version)

    def forget(self, url: str) -> None:
        """There is nothing that a new process would not know."""
