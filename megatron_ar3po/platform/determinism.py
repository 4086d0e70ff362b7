"""What makes the actor's kernels give the same bits twice (`run.deterministic`).

On a GPU: torch's and cuBLAS's deterministic algorithms, one algorithm of NCCL, no atomic sums in Transformer Engine;
Megatron has a mode of its own (`TransformerConfig.deterministic_mode`). On a CPU the kernels are deterministic for a
number of threads: it is fixed, whatever the machine has.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

import torch

# What is set where it is not, and what a user may have set instead.
_WANTED = {
    "CUBLAS_WORKSPACE_CONFIG": (":4096:8", (":4096:8", ":16:8")),
    "NCCL_ALGO": ("Ring", ("Ring", "Tree", "CollnetDirect", "CollnetChain", "^NVLS")),
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": ("0", ("0",)),
}


def prepare_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Before the process group starts and a GPU is touched. Raises ValueError for what contradicts it."""
    for name, (value, allowed) in _WANTED.items():
        found = environment.setdefault(name, value)
        if found not in allowed:
            raise ValueError(
                f"run.deterministic=true, but {name}={found} lets kernels sum in any order; unset it, or use "
                f"{' or '.join(allowed)}."
            )


def use_deterministic_kernels() -> None:
    """In a rank, before the model is built."""
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True)
    threads = os.environ.get("OMP_NUM_THREADS") or "1"
    if not threads.isdecimal() or int(threads) < 1:
        raise ValueError(
            f"OMP_NUM_THREADS={threads} of the environment is no number of threads; use 1 or more, or unset it."
        )
    torch.set_num_threads(int(threads))
