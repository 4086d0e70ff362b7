from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from megatron_ar3po.actor.attention import SegmentAttention, packed_segments


def bounds(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def test_tables_of_the_docstring_example() -> None:
    segments = packed_segments(bounds([2, 3, 2]), "cpu")
    (rows,) = segments.gather
    assert rows.tolist() == [[2, 3, 4], [0, 1, 1], [5, 6, 6]]
    assert segments.restore is not None
    assert segments.restore.tolist() == [3, 4, 0, 1, 2, 6, 7]


def test_a_long_sequence_does_not_share_a_group_with_short_ones() -> None:
    segments = packed_segments(bounds([400, 5, 380, 7]), "cpu")
    assert [tuple(rows.shape) for rows in segments.gather] == [(2, 400), (2, 7)]


@pytest.mark.parametrize("lengths", [[4], [1, 1, 1], [3, 9, 5, 2], [70, 3, 64, 1, 33]])
def test_packed_attention_is_attention_of_each_sequence_alone(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    query = torch.randn(total, 1, 4, 8, generator=generator, requires_grad=True)
    key = torch.randn(total, 1, 2, 8, generator=generator, requires_grad=True)
    value = torch.randn(total, 1, 2, 8, generator=generator, requires_grad=True)
    inputs = (query, key, value)
    got = SegmentAttention()(*inputs, packed_seq_params=packed_segments(bounds(lengths), "cpu"))
    alone = []
    for q, k, v in zip(*(x[:, 0].split(lengths) for x in inputs), strict=True):
        k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        alone.append(out[0].transpose(0, 1).flatten(1))
    wanted = torch.cat(alone)[:, None]
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    direction = torch.randn(wanted.shape, generator=generator)
    for a, b in zip(
        torch.autograd.grad((got * direction).sum(), inputs),
        torch.autograd.grad((wanted * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
