"""Micro-batches through Megatron's pipeline schedule, forward only or with backward.

The loss is a plain sum: over the tokens of a micro-batch (its `weights` hold the denominator of the whole optimizer
step), over micro-batches, and over data-parallel ranks. Megatron would divide by the number of micro-batches and by
the DP size; `calculate_per_token_loss` keeps it from both, and no token count is handed to `finalize_model_grads`.

Hidden states, between pipeline stages and behind the last one, are [T, 1, H]: this rank's T tokens of the packed
micro-batch (`rank_slice`), a batch of 1, the hidden size. Sequence parallelism leaves each tensor-parallel rank
[T / tp, 1, H] of them, T being padded to a multiple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_ar3po.actor.context_slices import ContextSlice, context_slice
from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.types import MicroBatch

# (hidden states of the last stage [T, 1, H], or [T / tp, 1, H] with sequence parallelism; this rank's slice of the
# micro-batch on the model's device) -> (loss, anything to keep)
LossFunction = Callable[[Tensor, MicroBatch], tuple[Tensor, Any]]


def run_schedule(
    model: DistributedDataParallel,
    micro_batches: Sequence[MicroBatch],
    loss_function: LossFunction,
    *,
    forward_only: bool,
) -> list[Any]:
    """What `loss_function` kept, one entry per micro-batch on the last stage, nothing on the others. Collective over
    the replica; with backward, gradients are summed over data-parallel ranks when it returns."""
    policy = model.module
    assert isinstance(policy, PolicyModel)
    policy.config.finalize_model_grads_func = _sum_gradients
    kept: list[tuple[int, Any]] = []
    device = next(policy.parameters()).device

    def step(
        batches: Iterator[tuple[int, MicroBatch]], stage: Any
    ) -> tuple[Tensor, Callable[[Tensor], Any]]:
        index, micro_batch = next(batches)
        mine = rank_slice(policy, micro_batch).micro_batch
        on_device = mine.to(device)
        hidden = stage(  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
            on_device.token_ids[None],
            on_device.position_ids[None],
            None,
            packed_seq_params=policy.packing(mine.cu_seqlens),
        )

        def loss(
            hidden: Tensor,  # [T, 1, H]; [T / tp, 1, H] if sequence parallel
        ) -> tuple[Tensor, Tensor, dict[str, Any]]:
            value, extra = loss_function(hidden, on_device)
            kept.append((index, extra))
            return value, torch.zeros((), dtype=torch.int, device=device), {}

        return hidden, loss

    get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(list(enumerate(micro_batches))),
        model=[model],
        num_microbatches=len(micro_batches),
        seq_length=max(m.num_tokens for m in micro_batches),  # not used: lengths vary
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return [extra for _, extra in sorted(kept, key=lambda pair: pair[0])]


def _sum_gradients(model: list[Any], num_tokens: Tensor | None = None, **kwargs: Any) -> None:
    finalize_model_grads(model, None, **kwargs)


def rank_slice(policy: PolicyModel, micro_batch: MicroBatch) -> ContextSlice:
    """What this rank computes of a micro-batch: all of it without context parallelism. Sequence parallelism cuts it
    over TP once more: a padding sequence fills it up to a multiple."""
    config = policy.config
    return context_slice(
        micro_batch,
        size=config.context_parallel_size,
        rank=parallel_state.get_context_parallel_rank(),
        tensor_parallel=config.tensor_model_parallel_size if config.sequence_parallel else 1,
    )
