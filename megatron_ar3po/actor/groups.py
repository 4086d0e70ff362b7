"""Megatron's process groups of this rank, with the type that torch.distributed wants."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state


def tensor_parallel() -> dist.ProcessGroup:
    return _require_member(parallel_state.get_tensor_model_parallel_group())


def pipeline_parallel() -> dist.ProcessGroup:
    return _require_member(parallel_state.get_pipeline_model_parallel_group())


def context_parallel() -> dist.ProcessGroup:
    return _require_member(parallel_state.get_context_parallel_group())


def data_parallel() -> dist.ProcessGroup:
    return _require_member(parallel_state.get_data_parallel_group(with_context_parallel=True))


def _require_member(group: Any) -> dist.ProcessGroup:
    assert isinstance(group, dist.ProcessGroup), "this rank is in no such group"
    return group
