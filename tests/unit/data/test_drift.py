"""A borrowed response that drifted too far leaves between old log-probs and update, in one process; that a real actor
then trains as under Option II is shown in tests/e2e/test_reuse_training.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from fakes.ranks import OneRank

from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.data.batch_builder import BatchBuilder
from megatron_ar3po.data.drift import detach_drifted, drift_of_rows, drop_rows
from megatron_ar3po.types import MicroBatch, RowKey, TrainingBatch, TrainingSample

AGGREGATIONS = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean")


def sample(position: int, index: int, length: int, *, origin: Any = "fresh") -> TrainingSample:
    return TrainingSample(
        group_position=position,
        prompt_id=f"{position:032x}",
        response_id=f"p{position}.{index}",
        prompt_token_ids=(7, 8),
        response_token_ids=np.arange(3, 3 + length, dtype=np.int32),
        behaviour_logprobs=np.full(length, -1.0, np.float32),
        advantage=1.5 if origin == "reused" else -0.5,
        reward=1.0,
        origin=origin,
        policy_version=3,
    )


# Position 0 borrowed p0.1, position 1 borrowed p1.0; position 2 is alone with one that it borrowed.
SAMPLES = [
    sample(0, 0, 2),
    sample(0, 1, 3, origin="reused"),
    sample(1, 0, 4, origin="reused"),
    sample(1, 1, 5),
    sample(2, 0, 2, origin="reused"),
]


def build(
    samples: list[TrainingSample], aggregation: Any = "token_mean", parts: int = 1, epochs: int = 1
):
    """With a limit on the drift, so that all log-probs come from a pass where something is borrowed."""
    algorithm = AlgorithmConfig(
        loss_aggregation=aggregation, num_mini_batches=parts, num_epochs=epochs
    )
    actor = ActorConfig(max_tokens_per_microbatch=12)
    reuse = ReuseConfig(max_logprob_drift=1.0)
    return BatchBuilder(cast(Any, OneRank()), algorithm, actor, reuse).build(samples, [])


def with_drifts(batch: TrainingBatch, drift: dict[str, float]) -> TrainingBatch:
    """Old log-probs that lie so far from the stored ones, up and down by turns."""

    def old(mb: MicroBatch) -> torch.Tensor:
        far = torch.tensor([drift.get(key.response_id, 0.0) for key in mb.row_keys])[
            mb.sequence_ids
        ]
        sign = torch.where(torch.arange(mb.num_tokens) % 2 == 0, 1.0, -1.0)
        return (mb.behaviour_logprobs + far * sign) * mb.loss_mask

    return batch.with_old_logprobs([old(mb) for mb in batch.needs_pass])


def per_token(batch: TrainingBatch) -> dict[tuple[str, int], tuple[float, ...]]:
    """What each token that counts carries, by response and target token."""
    found = {}
    for mb in batch.micro_batches:
        for t in torch.nonzero(mb.loss_mask)[:, 0].tolist():
            name = mb.row_keys[int(mb.sequence_ids[t])].response_id
            assert mb.old_logprobs is not None
            found[name, int(mb.target_ids[t])] = tuple(
                round(float(x[t]), 6)
                for x in (mb.weights, mb.advantages, mb.behaviour_logprobs, mb.old_logprobs)
            )
    return found


def test_drift_is_the_mean_absolute_change_over_the_tokens_of_a_borrowed_response() -> None:
    batch = with_drifts(build(SAMPLES), {"p0.0": 9.0, "p0.1": 0.25, "p1.0": 2.0})
    drifts = drift_of_rows(batch)
    assert {key.response_id: round(x, 6) for key, x in drifts.items()} == {
        "p0.1": 0.25,
        "p1.0": 2.0,
        "p2.0": 0.0,
    }
    stored = [replace(s, uses_behaviour_logprobs=True) for s in SAMPLES]
    assert drift_of_rows(with_drifts(build(stored), {"p1.0": 2.0})) == {}


def test_where_the_update_gives_the_old_logprobs_no_rank_is_asked_for_a_drift() -> None:
    """The update itself tells it."""
    algorithm, actor = AlgorithmConfig(), ActorConfig(max_tokens_per_microbatch=12)
    no_limit = ReuseConfig()
    batch = BatchBuilder(cast(Any, OneRank()), algorithm, actor, no_limit).build(SAMPLES, [])
    nobody = cast(Any, None)
    found = detach_drifted(batch, nobody, max_drift=0.0, aggregation="token_mean")
    assert found == (batch, [])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_what_drifts_too_far_counts_nowhere_and_the_rest_weighs_as_if_it_had_never_been(
    aggregation: Any,
) -> None:
    """To the last digit the batch that is built without it."""
    drift = {"p0.1": 0.25, "p1.0": 2.0}
    full = with_drifts(build(SAMPLES, aggregation), drift)
    batch, outcomes = detach_drifted(
        full, cast(Any, OneRank()), max_drift=1.0, aggregation=aggregation
    )
    assert [(loan.response_id, loan.option) for loan in outcomes] == [
        ("p0.1", "recompute"),
        ("p1.0", "detach"),
        ("p2.0", "recompute"),
    ]
    expected = with_drifts(
        build([s for s in SAMPLES if s.response_id != "p1.0"], aggregation), drift
    )
    assert per_token(batch) == per_token(expected)
    (mini,), (other,) = batch.mini_batches, expected.mini_batches
    assert (mini.num_units, mini.num_sequences) == (other.num_units, other.num_sequences)
    assert (batch.num_samples, batch.num_tokens) == (expected.num_samples, expected.num_tokens)
    off = torch.cat([1 - mb.loss_mask for mb in batch.micro_batches]) > 0
    for name in ("weights", "advantages", "target_ids", "old_logprobs", "is_reused"):
        values = torch.cat([getattr(mb, name) for mb in batch.micro_batches])
        assert not values[off].any(), name


def test_a_limit_of_0_measures_and_changes_nothing() -> None:
    full = with_drifts(build(SAMPLES), {"p1.0": 2.0})
    batch, outcomes = detach_drifted(
        full, cast(Any, OneRank()), max_drift=0.0, aggregation="token_mean"
    )
    assert batch is full
    assert [loan.option for loan in outcomes] == ["recompute"] * 3


def test_a_mini_batch_of_which_nothing_is_left_is_dropped() -> None:
    full = with_drifts(build(SAMPLES, parts=3), {})
    assert [mini.num_sequences for mini in full.mini_batches] == [2, 2, 1]
    batch = drop_rows(full, {RowKey(2, "p2.0", "reused")}, "token_mean")
    assert [mini.num_sequences for mini in batch.mini_batches] == [2, 2]
    assert batch.num_samples == 4


def test_a_row_that_is_nowhere_cannot_leave() -> None:
    with pytest.raises(AssertionError, match="is in no mini-batch"):
        drop_rows(with_drifts(build(SAMPLES), {}), {RowKey(7, "p7.0", "fresh")}, "token_mean")


def test_a_response_that_drifted_leaves_every_pass_over_the_batch_and_is_told_once():
    batch = with_drifts(build(SAMPLES, epochs=2), {"p0.1": 2.0})
    without, outcomes = detach_drifted(
        batch, cast(Any, OneRank()), max_drift=1.0, aggregation="token_mean"
    )
    assert [len(mini.samples) for mini in without.mini_batches] == [4, 4]
    assert (without.num_samples, without.num_tokens) == (4, 2 * 4 + 2 + 4 + 5 + 2)
    assert [(o.response_id, o.option) for o in outcomes] == [
        ("p0.1", "detach"),
        ("p1.0", "recompute"),
        ("p2.0", "recompute"),
    ]
