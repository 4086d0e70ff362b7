"""The distributed optimizer's state as whole tensors, one for each parameter, for a checkpoint that loads anywhere.

Megatron lays the buckets of a buffer side by side without their padding when it gathers them, and then cuts the
parameters out at offsets that count the padding. With one bucket the two agree. A tied embedding over pipeline stages
has a bucket of its own, and what lies behind the first padding would be saved shifted (Megatron-Core 0.16.1,
`DistributedOptimizer.get_parameter_state_dp_zero`; it warns of a range that "exceeds unpadded buffer"). Here the same
tensors are gathered with the padding included.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

_KEYS = ("param", "exp_avg", "exp_avg_sq")


def mend_param_state(one: DistributedOptimizer, param_state: dict[int, dict[str, Any]]) -> None:
    """Collective over the data-parallel group. `param_state` is what `one.sharded_state_dict` made for a save; the
    sharded tensors of buffers with several buckets get the right data."""
    index = 0
    for number, buffer in enumerate(one.buffers):
        if len(buffer.buckets) == 1:
            index += len(buffer.param_index_map)
            continue
        whole = {key: _gather_buffer(one, number, key) for key in _KEYS}
        for parameter, (start, end, _) in buffer.param_index_map.items():
            for key in _KEYS:
                param_state[index][key].data = whole[key][start:end].view(parameter.shape)
            index += 1


def _gather_buffer(one: DistributedOptimizer, number: int, key: str) -> Tensor:
    """[elements of the buffer, padding included], fp32 on the host."""
    group = one.data_parallel_group
    (bucket_ranges,) = one.gbuf_ranges[number].values()
    parts = []
    for bucket, ranges in zip(one.buffers[number].buckets, bucket_ranges, strict=True):
        device = bucket.grad_data.device
        mine = torch.zeros(bucket.grad_data.numel() // group.size(), device=device)
        for parameter, where in ranges["param_map"].items():
            local = where["gbuf_local"]
            state = one._get_main_param_and_optimizer_states(parameter)[key]
            mine[local.start : local.end].copy_(state.detach())
        bucket_whole = torch.empty(bucket.grad_data.numel(), device=device)
        dist.all_gather_into_tensor(bucket_whole, mine, group=group)
        parts.append(bucket_whole.cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def no_word_about_padding() -> Iterator[None]:
    """Megatron's warning of the shift, which is mended here for a save and without meaning for a load."""
    log = logging.getLogger("megatron.core.optimizer.distrib_optimizer")

    def is_other(record: logging.LogRecord) -> bool:
        return "exceeds unpadded buffer" not in record.getMessage()

    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)
