"""The matrix products of a server on a CPU; its attention and the whole of it: tests/e2e/test_rollout_server.py."""

from __future__ import annotations

import pytest
import torch

from megatron_ar3po.platform.batch_invariance import ROWS, addmm, mm

SHAPES = [(128, 256), (512, 128), (64, 20)]


@pytest.mark.parametrize(("num_inner", "num_columns"), SHAPES)
def test_a_row_has_the_same_bits_alone_among_others_and_at_any_place(num_inner, num_columns):
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(3 * ROWS, num_inner, generator=draw)
    right = torch.randn(num_columns, num_inner, generator=draw).T  # as a linear layer has it
    whole = mm(left, right)
    for start in (0, 1, 5, ROWS - 1, ROWS, ROWS + 7):
        for num_rows in (1, 2, 3, ROWS - 1, ROWS, ROWS + 1):
            part = mm(left[start : start + num_rows], right)
            assert torch.equal(part, whole[start : start + num_rows]), (start, num_rows)


@pytest.mark.parametrize(("num_inner", "num_columns"), SHAPES)
def test_the_product_is_the_product(num_inner, num_columns):
    draw = torch.Generator().manual_seed(1)
    left = torch.randn(ROWS + 5, num_inner, generator=draw)
    right = torch.randn(num_inner, num_columns, generator=draw)
    bias = torch.randn(num_columns, generator=draw)
    torch.testing.assert_close(mm(left, right), left @ right, rtol=1e-5, atol=1e-5)
    expected = torch.addmm(bias, left, right, beta=2, alpha=0.5)
    torch.testing.assert_close(addmm(bias, left, right, beta=2, alpha=0.5), expected)


def test_no_row_gives_no_row():
    assert mm(torch.zeros(0, 4), torch.zeros(4, 3)).shape == (0, 3)
