"""Matrix products on a CPU whose rows do not depend on what else is in the batch, bit by bit.

A BLAS library chooses its kernel by the shape, so a row of a product changes its last bits with the number of rows
beside it: one row alone differs from the same row among two. Here every product is made of blocks of `ROWS` rows, the
last one filled up with zeros: one shape, one kernel, one order of summation. What is computed row by row anyway (norms,
activations, softmax) needs nothing.

This replaces `aten::mm` and `aten::addmm` in the whole process; it is for the processes of a server.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

ROWS = 32

_installed: list[torch.library.Library] = []  # a Library takes its operators with it


def install() -> None:
    """A second call does nothing."""
    if _installed:
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an operator is replaced, which is the purpose
        library.impl("mm", mm, "CPU")
        library.impl("addmm", addmm, "CPU")
    _installed.append(library)


def mm(left: Tensor, right: Tensor) -> Tensor:
    """[M, K] x [K, N] -> [M, N]."""
    num_rows = left.shape[0]
    product = left.new_empty(-(-num_rows // ROWS) * ROWS, right.shape[1])
    for start in range(0, num_rows, ROWS):
        block = left[start : start + ROWS]
        if len(block) < ROWS:
            filled = left.new_zeros(ROWS, left.shape[1])
            filled[: len(block)] = block
            block = filled
        # The form that writes into a tensor is an operator of its own, which is not replaced.
        torch.mm(block, right, out=product[start : start + ROWS])
    return product[:num_rows]


def addmm(
    bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    return mm(left, right) * alpha + bias * beta
