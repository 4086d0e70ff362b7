"""What makes the actor's kernels give the same bits twice (`run.deterministic`).

On a GPU: torch's and cuBLAS's deterministic algorithms, one algorithm of NCCL, no atomic sums in Transformer Engine;
Megatron has a mode of its own (`TransformerConfig.deterministic_mode`). On a CPU the kernels are deterministic for a
number of threads: it is fixed, whatever the machine has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

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
    import torch  # takes seconds, and the others here do without

    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True)
    torch.set_num_threads(read_num_threads(os.environ))


def read_num_threads(environment: Mapping[str, str]) -> int:
    """1 where OMP_NUM_THREADS does not say it. Raises ValueError where that is no number of threads.

    >>> read_num_threads({}), read_num_threads({"OMP_NUM_THREADS": "4"}), read_num_threads({"OMP_NUM_THREADS": "8,2"})
    (1, 4, 8)
    """
    stated = environment.get("OMP_NUM_THREADS") or "1"
    outermost = stated.partition(",")[0].strip()  # OpenMP has one for each level
    if not outermost.isdecimal() or int(outermost) < 1:
        raise ValueError(
            f"OMP_NUM_THREADS={stated} of the environment is no number of threads; use 1 or more, or unset it."
        )
    return int(outermost)
