"""Lengths -> micro-batches: who gets what. Plain Python, no tensors, so it can be tested exhaustively.

Promises: every sequence stands in exactly one micro-batch; no micro-batch exceeds the token budget; every
data-parallel rank has the same number of micro-batches (some may be empty: the batch builder fills them with a
dummy row); loads are balanced, longest sequence first into the emptiest bin.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def plan_micro_batches(
    lengths: Sequence[int], *, max_tokens: int, data_parallel_size: int
) -> list[list[list[int]]]:
    """[data-parallel rank][micro-batch] -> indices into `lengths`, ascending inside a micro-batch.

    >>> plan_micro_batches([5, 4, 3, 2], max_tokens=8, data_parallel_size=1)
    [[[0, 3], [1, 2]]]
    >>> plan_micro_batches([5, 4, 3, 2], max_tokens=8, data_parallel_size=2)
    [[[0, 3]], [[1, 2]]]
    """
    longest = max(lengths, default=0)
    if longest > max_tokens:
        raise ValueError(
            f"a sequence of {longest} tokens exceeds actor.max_tokens_per_microbatch={max_tokens}; raise it to at "
            f"least {longest}, or lower data.max_prompt_tokens or rollout.max_response_tokens."
        )
    per_rank = max(1, -(-sum(lengths) // (max_tokens * data_parallel_size)))
    while (bins := _pack(lengths, per_rank * data_parallel_size, max_tokens)) is None:
        per_rank += 1
    return _deal(bins, lengths, data_parallel_size)


def _pack(lengths: Sequence[int], num_bins: int, max_tokens: int) -> list[list[int]] | None:
    """Longest first into the emptiest bin; None when one overflows."""
    heap = [(0, b) for b in range(num_bins)]
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, b = heapq.heappop(heap)
        if load + lengths[index] > max_tokens:
            return None
        bins[b].append(index)
        heapq.heappush(heap, (load + lengths[index], b))
    return [sorted(b) for b in bins]


def _deal(
    bins: list[list[int]], lengths: Sequence[int], data_parallel_size: int
) -> list[list[list[int]]]:
    """Heaviest bins first, back and forth over the ranks (0, 1, 1, 0, 0, 1, ...), so that sums come out even."""
    order = sorted(range(len(bins)), key=lambda b: (-sum(lengths[i] for i in bins[b]), b))
    ranks: list[list[list[int]]] = [[] for _ in range(data_parallel_size)]
    for index, b in enumerate(order):
        lap, seat = divmod(index, data_parallel_size)
        ranks[seat if lap % 2 == 0 else data_parallel_size - 1 - seat].append(bins[b])
    return ranks
