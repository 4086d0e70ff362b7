import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.data.packing import plan_micro_batches


def test_longest_first_into_the_emptiest_place():
    """5 and 4 open the two places; 3 joins 4 (7), 2 joins 5 (7)."""
    plan = plan_micro_batches([5, 4, 3, 2], max_tokens=8, data_parallel_size=1)
    assert plan == [[[0, 3], [1, 2]]]


def test_two_ranks_get_one_micro_batch_each():
    plan = plan_micro_batches([5, 4, 3, 2], max_tokens=8, data_parallel_size=2)
    assert plan == [[[0, 3]], [[1, 2]]]


def test_one_more_micro_batch_is_opened_when_the_smallest_number_does_not_pack():
    """5 + 5 + 5 = 15 would fit two of 8 by sum, but no two fit together."""
    assert plan_micro_batches([5, 5, 5], max_tokens=8, data_parallel_size=1) == [[[0], [1], [2]]]


def test_a_rank_without_sequences_still_has_its_micro_batch():
    assert plan_micro_batches([4], max_tokens=8, data_parallel_size=2) == [[[0]], [[]]]


def test_a_sequence_longer_than_the_budget_names_the_option():
    with pytest.raises(ValueError, match=r"9 tokens exceeds actor.max_tokens_per_microbatch=8"):
        plan_micro_batches([9], max_tokens=8, data_parallel_size=1)


@given(
    lengths=st.lists(st.integers(1, 50), max_size=60),
    max_tokens=st.integers(50, 120),
    data_parallel_size=st.integers(1, 5),
)
def test_every_sequence_stands_once_within_budget_and_work_is_equal(
    lengths, max_tokens, data_parallel_size
):
    plan = plan_micro_batches(lengths, max_tokens=max_tokens, data_parallel_size=data_parallel_size)
    assert len(plan) == data_parallel_size
    assert len({len(rank) for rank in plan}) == 1
    bins = [b for rank in plan for b in rank]
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= max_tokens for b in bins)
