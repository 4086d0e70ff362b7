"""The cut of packed sequences over context-parallel ranks: no token, weight or log-prob is lost or counted twice.
Not here: the attention over the ranks, which is Transformer Engine's and needs GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_ar3po.actor.context_slices import context_slice
from megatron_ar3po.types import MicroBatch

LENGTHS = (6, 13, 2, 40)


def pack(lengths: tuple[int, ...]) -> MicroBatch:
    """Tokens are numbered from 1, so that padding, 0, is seen; the first two of each sequence are its prompt."""
    total = sum(lengths)
    positions = torch.cat([torch.arange(n) for n in lengths])
    ends = torch.cat([torch.full((n,), n) for n in lengths])
    mask = ((positions >= 1) & (positions < ends - 1)).float()
    numbers = torch.arange(1, total + 1)
    nothing = torch.zeros(total, dtype=torch.bool)
    return MicroBatch(
        token_ids=numbers,
        position_ids=positions,
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        sequence_ids=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        target_ids=torch.where(mask > 0, numbers + 1, 0),
        loss_mask=mask,
        advantages=torch.sin(numbers.float()) * mask,
        weights=mask / mask.sum().clamp(min=1),
        behaviour_logprobs=-numbers.float() * mask,
        is_reused=nothing,
        uses_behaviour_logprobs=nothing,
        old_logprobs=-0.5 * numbers.float() * mask,
    )


def test_the_docstring_example() -> None:
    """Six tokens over two ranks: a b . . and c d e f."""
    whole = pack((6,))
    first, second = (context_slice(whole, size=2, rank=r) for r in range(2))
    assert first.micro_batch.token_ids.tolist() == [1, 2, 0, 0]
    assert second.micro_batch.token_ids.tolist() == [3, 4, 5, 6]
    assert first.micro_batch.position_ids.tolist() == [0, 1, 6, 7]
    assert second.micro_batch.position_ids.tolist() == [2, 3, 4, 5]
    assert first.micro_batch.cu_seqlens.tolist() == second.micro_batch.cu_seqlens.tolist() == [0, 8]
    assert second.micro_batch.target_ids.tolist() == [
        4,
        5,
        6,
        0,
    ]  # the next token, wherever it lies


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("tensor_parallel", [1, 2, 8])
def test_every_token_lies_on_one_rank_with_its_neighbours_knowledge(
    size: int, tensor_parallel: int
) -> None:
    whole = pack(LENGTHS)
    slices = [
        context_slice(whole, size=size, rank=r, tensor_parallel=tensor_parallel)
        for r in range(size)
    ]
    total = int(slices[0].micro_batch.cu_seqlens[-1])
    assert sorted(torch.cat([s.local_indices for s in slices]).tolist()) == list(range(total))
    held = torch.cat([s.micro_batch.token_ids for s in slices])
    assert sorted(held[held > 0].tolist()) == list(range(1, sum(LENGTHS) + 1))
    for s in slices:
        mine = s.micro_batch
        assert len(mine.token_ids) == total // size and not len(mine.token_ids) % tensor_parallel
        assert size == 1 or not any(n % (2 * size) for n in mine.cu_seqlens.diff().tolist())
        is_real = mine.token_ids > 0
        at = mine.token_ids[is_real] - 1
        for name in ("target_ids", "loss_mask", "weights", "advantages", "old_logprobs"):
            assert torch.equal(getattr(mine, name)[is_real], getattr(whole, name)[at]), name
            assert not getattr(mine, name)[~is_real].any(), f"{name}: padding counts"
        assert torch.equal(mine.position_ids[is_real], whole.position_ids[at])
        assert torch.equal(mine.sequence_ids[is_real], whole.sequence_ids[at])


@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_log_probs_of_the_ranks_add_up_to_those_of_the_whole(size: int) -> None:
    whole = pack(LENGTHS)

    def logprobs(mb: MicroBatch) -> torch.Tensor:  # some function of each token alone
        return -torch.cos(mb.token_ids.float()) * mb.loss_mask

    def loss(mb: MicroBatch) -> torch.Tensor:
        assert mb.old_logprobs is not None
        return -(mb.weights * mb.advantages * (logprobs(mb) - mb.old_logprobs).exp()).sum()

    slices = [context_slice(whole, size=size, rank=r) for r in range(size)]
    torch.testing.assert_close(sum(loss(s.micro_batch) for s in slices), loss(whole))
    together = sum(s.scatter(logprobs(s.micro_batch)) for s in slices)
    assert isinstance(together, torch.Tensor) and torch.equal(together, logprobs(whole))


def test_causal_attention_costs_every_rank_the_same() -> None:
    """Keys seen by the tokens of a rank, of 1 + 2 + ... + 64 = 2080: an early and a late chunk balance out; plain
    halves would be 1 to 3."""
    whole = pack((64,))
    seen = [
        int((context_slice(whole, size=4, rank=r).micro_batch.position_ids + 1).sum())
        for r in range(4)
    ]
    assert seen == [520, 520, 520, 520]


def test_a_dummy_row_keeps_weight_0() -> None:
    row = pack((2,))
    row = replace(row, loss_mask=torch.zeros(2), weights=torch.zeros(2))
    for rank in range(2):
        mine = context_slice(row, size=2, rank=rank).micro_batch
        assert len(mine.token_ids) == 2 and not mine.weights.any() and not mine.loss_mask.any()
