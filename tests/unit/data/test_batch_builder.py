"""The builder alone, in one process; that every layout trains the same is shown in tests/parallel."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes.ranks import OneRank
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.data.batch_builder import BatchBuilder, check_row_keys, pack, split_by_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.types import MiniBatch, RowKey, TrainingBatch, TrainingSample


def sample(position: int, prompt=(7, 8), response=(3, 4), advantage=0.5, origin="fresh", **more):
    return TrainingSample(
        group_position=position,
        prompt_id=f"{position:032x}",
        response_id=f"s1.p{position}.1.0",
        prompt_token_ids=tuple(prompt),
        response_token_ids=np.array(response, np.int32),
        behaviour_logprobs=np.linspace(-1, -2, len(response), dtype=np.float32),
        advantage=advantage,
        reward=1.0,
        origin=origin,
        policy_version=3,
        **more,
    )


def test_a_prompt_of_two_and_a_response_of_two_predict_at_positions_1_and_2():
    mb = pack([sample(0)], [0.25])
    assert mb.token_ids.tolist() == [7, 8, 3, 4]
    assert mb.target_ids.tolist() == [0, 3, 4, 0]
    assert mb.loss_mask.tolist() == [0, 1, 1, 0]
    assert mb.weights.tolist() == [0, 0.25, 0.25, 0]
    assert mb.advantages.tolist() == [0, 0.5, 0.5, 0]
    assert mb.behaviour_logprobs.tolist() == [0, -1, -2, 0]


def test_sequences_are_packed_end_to_end_with_positions_from_zero():
    mb = pack([sample(0), sample(1, prompt=(9,), response=(5,), origin="reused")], [0.1, 0.2])
    assert mb.cu_seqlens.tolist() == [0, 4, 6]
    assert mb.position_ids.tolist() == [0, 1, 2, 3, 0, 1]
    assert mb.sequence_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert mb.is_reused.tolist() == [False] * 4 + [True, False]
    assert mb.loss_mask.sum() == 3


def test_new_advantages_find_their_rows_by_group_and_response():
    """A response lent to two groups has a row in each; a row that is not named gets 0, a dummy row stays 0."""
    packed = pack([sample(0), sample(1), sample(2, response=(5,))], [0.1, 0.1, 0.1])
    batch = TrainingBatch(
        mini_batches=(
            MiniBatch(micro_batches=(packed, pack([], [])), num_units=1, num_sequences=3),
        ),
        num_samples=3,
        num_tokens=11,
    )
    changed = batch.with_advantages(
        {
            RowKey(0, "s1.p0.1.0", "fresh"): 2.0,
            RowKey(1, "s1.p1.1.0", "fresh"): -3.0,
            RowKey(9, "x", "fresh"): 7.0,
        }
    )
    first, dummy = changed.micro_batches
    assert first.advantages.tolist() == [0, 2, 2, 0, 0, -3, -3, 0, 0, 0, 0]
    assert dummy.advantages.tolist() == [0, 0]


def test_a_row_that_stands_twice_in_a_batch_is_refused_by_name():
    """A borrowed and a fresh response of one name are two rows; two fresh ones are a fault of ours."""
    fresh = sample(3)
    check_row_keys([fresh, replace(fresh, origin="reused"), sample(4)])
    with pytest.raises(
        AssertionError, match=r"1 responses stand twice .* s1\.p3\.1\.0 \(fresh\) .* position 3"
    ):
        build([fresh, fresh])


def test_no_sample_makes_a_row_that_weighs_nothing():
    mb = pack([], [])
    assert mb.num_tokens == 2
    assert mb.loss_mask.sum() == 0
    assert float(mb.weights.sum()) == 0


def build(
    samples: list[TrainingSample], num_mini_batches: int = 1, num_epochs: int = 1, **reuse: Any
) -> TrainingBatch:
    """A micro-batch for every sequence of more than four tokens."""
    return BatchBuilder(
        OneRank(),
        AlgorithmConfig(num_mini_batches=num_mini_batches, num_epochs=num_epochs),
        ActorConfig(max_tokens_per_microbatch=8),
        ReuseConfig(**reuse),
    ).build(samples, [])


def test_the_log_probs_of_a_pass_go_to_the_mini_batches_that_need_one():
    """Three mini-batches of one group each: the first takes those of its own update. A response that trains on what
    was stored is marked, token by token, and keeps what the pass finds for it all the same."""
    samples = [
        sample(0),
        sample(1, uses_behaviour_logprobs=True),
        sample(1, origin="reused"),
        sample(2),
    ]
    batch = build(samples, num_mini_batches=3)
    assert [mini.old_logprobs_from for mini in batch.mini_batches] == ["update", "pass", "pass"]
    first, second, third = batch.micro_batches
    assert batch.needs_pass == (second, third)
    assert second.uses_behaviour_logprobs.tolist() == [False, True, True] + [False] * 5
    computed = [torch.full((8,), -9.0), torch.full((4,), -7.0)]
    filled = batch.with_old_logprobs(computed).micro_batches
    assert filled[0] is first and first.old_logprobs is None
    assert filled[1].old_logprobs is computed[0] and filled[2].old_logprobs is computed[1]


def test_replayed_rows_are_spread_over_the_mini_batches_and_marked():
    """Four groups of two and two replayed rows in two mini-batches: each has two groups and one row."""
    fresh = [sample(p, origin=origin) for p in range(4) for origin in ("fresh", "reused")]
    rows = [sample(p, origin="replayed", uses_behaviour_logprobs=True) for p in (4, 5)]
    batch = build([*fresh, *rows], num_mini_batches=2)
    assert [[s.group_position for s in mini.samples] for mini in batch.mini_batches] == [
        [0, 0, 4, 1, 1],
        [2, 2, 5, 3, 3],
    ]
    mb = pack([fresh[0], fresh[1], rows[0]], [0.1] * 3)
    assert mb.is_reused.tolist() == [False] * 5 + [True, True] + [False] * 2 + [True, True, False]
    assert mb.is_replayed is not None
    assert mb.is_replayed.tolist() == [False] * 9 + [True, True, False]
    assert pack(fresh, [0.1] * 8).is_replayed is None


def test_every_pass_over_a_batch_has_each_response_once_and_later_ones_an_order_of_their_own():
    """Eight groups of two responses, in two mini-batches of four groups."""
    samples = [sample(p, origin=origin) for p in range(8) for origin in ("fresh", "reused")]
    batch = build(samples, num_mini_batches=2, num_epochs=3)
    orders = [
        [s.row_key for mini in batch.mini_batches[i : i + 2] for s in mini.samples]
        for i in (0, 2, 4)
    ]
    assert orders[0] == [s.row_key for s in samples]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert [key.position for key in order[::2]] == [key.position for key in order[1::2]]
    assert [mini.num_sequences for mini in batch.mini_batches] == [8] * 6
    assert (batch.num_samples, batch.num_tokens) == (16, 64)


def test_with_several_passes_all_old_log_probs_are_from_before_the_first_update():
    batch = build([sample(0), sample(1)], num_mini_batches=2, num_epochs=2)
    assert [mini.old_logprobs_from for mini in batch.mini_batches] == ["pass"] * 4
    stored = [sample(p, uses_behaviour_logprobs=True) for p in range(2)]
    batch = build(stored, num_epochs=2)
    assert [mini.old_logprobs_from for mini in batch.mini_batches] == ["update", "server"]


def test_the_dummy_row_of_a_short_rank_has_its_old_log_probs_from_where_the_others_have_them():
    """One sample for two ranks: on one of them a dummy row alone, which must be in the pass, or out of it, as well."""
    ranks = OneRank()
    ranks.layout = ParallelLayout(world_size=2, rank=1)
    for settings, source in (({}, "update"), ({"max_logprob_drift": 1.0}, "pass")):
        builder = BatchBuilder(
            ranks,
            AlgorithmConfig(),
            ActorConfig(max_tokens_per_microbatch=8),
            ReuseConfig(**settings),
        )
        (micro,) = builder.build([sample(0, origin="reused")], []).micro_batches
        assert (micro.row_keys, micro.old_logprobs_from) == ((), source)


def responses_of(position: int, *lengths: int) -> list[TrainingSample]:
    return [
        replace(sample(position, response=range(3, 3 + n)), response_id=f"s1.p{position}.1.{i}")
        for i, n in enumerate(lengths)
    ]


def test_every_mini_batch_weighs_1_however_many_samples_it_has():
    """GRPO's weights, 1 / (sequences * tokens). Two mini-batches: one prompt with three responses of 2 tokens, 1/6 a
    token; one with a single response of 8 tokens, 1/8 a token."""
    builder = BatchBuilder(
        OneRank(),
        AlgorithmConfig(loss_aggregation="seq_mean_token_mean", num_mini_batches=2),
        ActorConfig(max_tokens_per_microbatch=16),
        ReuseConfig(),
    )
    batch = builder.build([*responses_of(0, 2, 2, 2), *responses_of(1, 8)], [])
    first, second = (
        torch.cat([mb.weights[mb.loss_mask > 0] for mb in mini.micro_batches])
        for mini in batch.mini_batches
    )
    torch.testing.assert_close(first, torch.full((6,), 1 / 6))
    torch.testing.assert_close(second, torch.full((8,), 1 / 8))
    assert [mini.num_sequences for mini in batch.mini_batches] == [3, 1]


def test_mini_batches_keep_groups_whole_and_even():
    """Three groups of 4, 4 and 8 tokens make two mini-batches of 8."""
    samples = [sample(0), sample(1), sample(2), sample(2)]
    parts = split_by_group(samples, 2)
    assert [[s.group_position for s in part] for part in parts] == [[0, 1], [2, 2]]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), num_parts=st.integers(1, 8))
def test_no_mini_batch_is_empty_and_none_is_lost(sizes, num_parts):
    samples = [sample(i) for i, n in enumerate(sizes) for _ in range(n)]
    parts = split_by_group(samples, num_parts)
    assert len(parts) == min(num_parts, len(sizes))
    assert all(parts)
    assert [s for part in parts for s in part] == samples


def test_no_sample_gives_no_mini_batch():
    assert split_by_group([], 4) == []
