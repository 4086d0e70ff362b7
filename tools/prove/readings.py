"""What only a device can say: the memory that its driver counts, and the names of the kernels that ran."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping

import torch

# A kernel or an operator of fused attention: flash-attention's, torch's own two, cuDNN's, and the CPU's.
FUSED = re.compile(r"flash|fmha|sdpa|efficient_attention", re.IGNORECASE)
# One that computes the matrix of scores. The decoder has no other softmax than attention's.
UNFUSED = re.compile(r"attention_math|softmax", re.IGNORECASE)


def device_bytes_in_use(device: str) -> int | None:
    """Of the whole device and all processes, as nvidia-smi counts it; None of a CPU. What this process's allocator only
    keeps is given back first: it would hide what was not freed, or pass for it."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def kernels_of(action: Callable[[], object], device: str) -> Mapping[str, int]:
    """How often each kernel (of a CPU: each operator) ran meanwhile."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        action()
        if device == "cuda":
            torch.cuda.synchronize()
    return {event.key: event.count for event in profiler.key_averages()}


def judge_attention(kernels: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """(fused, unfused) attention among the names of what ran.

    >>> judge_attention({"void pytorch_flash::flash_fwd_kernel<...>": 8, "ampere_bf16_s16816gemm": 3})
    (['void pytorch_flash::flash_fwd_kernel<...>'], [])
    >>> judge_attention({"aten::_scaled_dot_product_attention_math": 8})
    ([], ['aten::_scaled_dot_product_attention_math'])
    """
    fused = sorted(name for name in kernels if FUSED.search(name))
    unfused = sorted(name for name in kernels if UNFUSED.search(name) and name not in fused)
    return fused, unfused
