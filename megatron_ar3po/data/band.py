"""Option I -> Option II for a borrowed response whose log-probs have left the band: between old log-probs and update.

Under Option I a borrowed response starts at ratio 1, however unlike the policy that sampled it the current one is. Its
drift, the mean over its tokens of |recomputed log-prob - stored log-prob|, says how unlike; beyond
`reuse.logprob_band` it is detached: it has served the advantages of its siblings and counts nowhere from here on, as if
it had never been a sample. The weights of the others are made anew for the smaller denominator, the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import torch

from megatron_ar3po.algorithm.aggregation import Aggregation, token_weights
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.types import LoanOutcome, MicroBatch, MiniBatch, TrainingBatch

Row = tuple[int, int]  # (mini-batch, place in its samples)


def within_band(
    batch: TrainingBatch, ranks: Ranks, *, band: float, aggregation: Aggregation
) -> tuple[TrainingBatch, dict[Row, LoanOutcome]]:
    """Collective over all ranks; `batch` has its old log-probs. (the batch without the borrowed rows beyond the band,
    how every borrowed row stands). `band` 0 measures and detaches nothing."""
    if not any(s.origin == "reused" for mini in batch.mini_batches for s in mini.samples):
        return batch, {}
    drifts: dict[Row, float] = {}
    for of_rank in ranks.gather(drift_of_rows(batch)):
        drifts.update(of_rank)
    beyond = {row for row, drift in drifts.items() if drift > band > 0}
    standing = {row: _outcome(batch, row, drift, row in beyond) for row, drift in drifts.items()}
    return (without_rows(batch, beyond, aggregation) if beyond else batch), standing


def drift_of_rows(batch: TrainingBatch) -> dict[Row, float]:
    """Of this rank's borrowed rows with recomputed log-probs; empty where the last pipeline stage is elsewhere."""
    drifts: dict[Row, float] = {}
    for place, mini in enumerate(batch.mini_batches):
        for micro in mini.micro_batches:
            if micro.old_logprobs is None:
                continue
            is_asked = micro.is_reused & ~micro.uses_stored_logprobs
            change = (micro.old_logprobs - micro.behaviour_logprobs).abs()
            for sequence, index in enumerate(micro.sample_indices):
                mine = is_asked & (micro.sequence_ids == sequence)
                if mini.samples[index].origin == "reused" and mine.any():
                    drifts[place, index] = float(change[mine].mean())
    return drifts


def without_rows(batch: TrainingBatch, rows: Set[Row], aggregation: Aggregation) -> TrainingBatch:
    """The same batch as if `rows` had never been samples of it. Their tokens are computed still and count nowhere; a
    mini-batch of which nothing is left is dropped, on all ranks alike."""
    minis = []
    for place, mini in enumerate(batch.mini_batches):
        gone = {index for mini_place, index in rows if mini_place == place}
        if len(gone) < len(mini.samples) or not mini.samples:
            minis.append(_without(mini, gone, aggregation) if gone else mini)
    lost = [batch.mini_batches[place].samples[index] for place, index in rows]
    return TrainingBatch(
        mini_batches=tuple(minis),
        num_samples=batch.num_samples - len(lost),
        num_tokens=batch.num_tokens - sum(sample.num_tokens for sample in lost),
    )


def _without(mini: MiniBatch, gone: Set[int], aggregation: Aggregation) -> MiniBatch:
    kept = [index for index in range(len(mini.samples)) if index not in gone]
    weights, num_units = token_weights([mini.samples[index] for index in kept], aggregation)
    weight_of = dict(zip(kept, weights.tolist(), strict=True))
    return replace(
        mini,
        micro_batches=tuple(_reweighted(micro, weight_of) for micro in mini.micro_batches),
        num_units=num_units,
        num_sequences=len(kept),
    )


def _reweighted(micro: MicroBatch, weight_of: Mapping[int, float]) -> MicroBatch:
    """Off the response every entry is 0; so it is on a row that is gone."""
    if not micro.sample_indices:
        return micro
    per_row = torch.tensor([weight_of.get(i, 0.0) for i in micro.sample_indices])
    is_kept = torch.tensor([i in weight_of for i in micro.sample_indices])[micro.sequence_ids]
    keep = is_kept & (micro.loss_mask > 0)
    old = micro.old_logprobs
    return replace(
        micro,
        target_ids=micro.target_ids * keep,
        loss_mask=keep.to(micro.loss_mask.dtype),
        advantages=micro.advantages * keep,
        weights=per_row[micro.sequence_ids] * keep,
        behaviour_logprobs=micro.behaviour_logprobs * keep,
        is_reused=micro.is_reused & keep,
        uses_stored_logprobs=micro.uses_stored_logprobs & keep,
        old_logprobs=None if old is None else old * keep,
    )


def _outcome(batch: TrainingBatch, row: Row, drift: float, is_beyond: bool) -> LoanOutcome:
    sample = batch.mini_batches[row[0]].samples[row[1]]
    return LoanOutcome(
        position=sample.group_position,
        response_id=sample.response_id,
        option="detach" if is_beyond else "recompute",
        drift=drift,
    )
