"""Option I -> Option II for a borrowed response whose log-probs have drifted too far: between old log-probs and update.

Under Option I a borrowed response starts at ratio 1, however unlike the policy that sampled it the current one is. Its
drift, the mean over its tokens of |recomputed log-prob - stored log-prob|, says how unlike; beyond
`reuse.max_logprob_drift` it is detached: it has served the advantages of its siblings and counts nowhere from here on,
as if it had never been a sample. The weights of the others are made anew for the smaller denominator, the same on all
ranks; under `algorithm.denominator=all`, where a borrowed response is in none, they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import torch

from megatron_ar3po.algorithm.aggregation import Aggregation, token_weights
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.types import MicroBatch, MiniBatch, RowKey, TrainingBatch
from megatron_ar3po.update_stats import LoanOutcome


def detach_drifted(
    batch: TrainingBatch, ranks: Ranks, *, max_drift: float, aggregation: Aggregation | None
) -> tuple[TrainingBatch, list[LoanOutcome]]:
    """Collective over all ranks; `batch` has the old log-probs that come from a pass. (the batch without the borrowed
    rows that drifted further than `max_drift`, the drift result of every borrowed row that was in the pass). 0 measures
    and detaches nothing. `aggregation` None: the weights of the other rows stay. Where the update's own forward pass
    gives the old log-probs, the update tells the drift."""
    if not _has_measured_loans(batch):
        return batch, []
    drifts: dict[RowKey, float] = {}
    for of_rank in ranks.gather(drift_of_rows(batch)):
        drifts.update(of_rank)
    beyond = {row for row, drift in drifts.items() if drift > max_drift > 0}
    outcomes = [
        LoanOutcome(
            position=row.position,
            response_id=row.response_id,
            option="detach" if row in beyond else "recompute",
            drift=drift,
        )
        for row, drift in sorted(drifts.items())
    ]
    return (drop_rows(batch, beyond, aggregation) if beyond else batch), outcomes


def _has_measured_loans(batch: TrainingBatch) -> bool:
    """The same on every rank."""
    return any(
        mini.old_logprobs_from == "pass"
        and any(s.origin == "reused" and not s.uses_behaviour_logprobs for s in mini.samples)
        for mini in batch.mini_batches
    )


def drift_of_rows(batch: TrainingBatch) -> dict[RowKey, float]:
    """Of this rank's borrowed rows with recomputed log-probs; empty where the last pipeline stage is elsewhere."""
    drifts: dict[RowKey, float] = {}
    for micro in batch.micro_batches:
        if micro.old_logprobs is None:
            continue
        is_asked = micro.is_reused & ~micro.uses_behaviour_logprobs
        change = (micro.old_logprobs - micro.behaviour_logprobs).abs()
        for sequence in micro.sequence_ids[is_asked].unique().tolist():
            mine = is_asked & (micro.sequence_ids == sequence)
            drifts[micro.row_keys[sequence]] = float(change[mine].mean())
    return drifts


def drop_rows(
    batch: TrainingBatch, rows: Set[RowKey], aggregation: Aggregation | None
) -> TrainingBatch:
    """The same batch as if `rows` had never been samples of it. Their tokens are computed still and count nowhere; a
    mini-batch of which nothing is left is dropped, on all ranks alike."""
    lost = {s.row_key: s for mini in batch.mini_batches for s in mini.samples if s.row_key in rows}
    assert len(lost) == len(rows), "a row that is to leave is in no mini-batch"
    minis = [_drop_from_mini_batch(mini, rows, aggregation) for mini in batch.mini_batches]
    return TrainingBatch(
        mini_batches=tuple(mini for mini in minis if mini.num_sequences),
        num_samples=batch.num_samples - len(lost),
        num_tokens=batch.num_tokens - sum(sample.num_tokens for sample in lost.values()),
    )


def _drop_from_mini_batch(
    mini: MiniBatch, rows: Set[RowKey], aggregation: Aggregation | None
) -> MiniBatch:
    kept = [sample for sample in mini.samples if sample.row_key not in rows]
    if len(kept) == len(mini.samples):
        return mini
    if aggregation is None:
        weight_of, num_units = _weights_there(mini, {s.row_key for s in kept}), mini.num_units
    else:
        weights, num_units = token_weights(kept, aggregation)
        weight_of = {s.row_key: float(weight) for s, weight in zip(kept, weights, strict=True)}
    return replace(
        mini,
        micro_batches=tuple(_reweight(micro, weight_of) for micro in mini.micro_batches),
        num_units=num_units,
        num_sequences=len(kept),
        samples=tuple(kept),
    )


def _weights_there(mini: MiniBatch, kept: Set[RowKey]) -> dict[RowKey, float]:
    """Of this rank's rows."""
    return {
        key: float(micro.weights[micro.sequence_ids == sequence].max())
        for micro in mini.micro_batches
        for sequence, key in enumerate(micro.row_keys)
        if key in kept
    }


def _reweight(micro: MicroBatch, weight_of: Mapping[RowKey, float]) -> MicroBatch:
    """Off the response every entry is 0; so it is on a row that is gone."""
    if not micro.row_keys:  # a dummy row
        return micro
    weights = micro.weights.new_tensor([weight_of.get(key, 0.0) for key in micro.row_keys])
    is_kept = torch.tensor([key in weight_of for key in micro.row_keys])
    keep = is_kept[micro.sequence_ids] & (micro.loss_mask > 0)
    zeroed = {
        name: torch.where(keep, value, torch.zeros_like(value))
        for name in (*_OFF_THE_RESPONSE, "old_logprobs", "reference_logprobs")
        if (value := getattr(micro, name)) is not None
    }
    return replace(micro, **zeroed, weights=weights[micro.sequence_ids] * keep)


_OFF_THE_RESPONSE = (
    "target_ids",
    "loss_mask",
    "advantages",
    "behaviour_logprobs",
    "is_reused",
    "is_replayed",
    "uses_behaviour_logprobs",
)
