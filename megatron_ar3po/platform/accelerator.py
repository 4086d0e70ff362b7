"""Whether this process can use a GPU, asked before torch is imported."""

from __future__ import annotations

import ctypes
import sys


def has_gpu() -> bool:
    """As `torch.cuda.is_available()` says. Without NVIDIA's driver library there is none, and the seconds that torch
    takes to import are not spent on the answer."""
    if "torch" not in sys.modules and not _has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
