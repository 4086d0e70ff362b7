"""How much memory this process has ever held."""

from __future__ import annotations

import resource

import torch


def peak_bytes() -> int:
    """Peak of the accelerator's allocator where there is one, of the process otherwise."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
