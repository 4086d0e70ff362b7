"""The trainer's environment -> a server's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import megatron_ar3po
from megatron_ar3po.platform.accelerator import has_gpu

SERVED_MODELS = "megatron_ar3po.platform.served_models"
_KEEP_ALIVE_S = 24 * 3600

# What torchrun, Slurm's MPI and the trainer set for their own process groups; a server that inherits it joins them.
_TRAINER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "CUDA_VISIBLE_DEVICES_ORIGINAL",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUDA_DEVICE_MAX_CONNECTIONS",
)
_TRAINER_PREFIXES = ("TORCHELASTIC_", "TORCH_NCCL_")


def server_environment(inherited: Mapping[str, str], gpu_ids: Sequence[str]) -> dict[str, str]:
    """The trainer's environment without what describes the trainer's own process group."""
    environment = {
        name: value
        for name, value in inherited.items()
        if name not in _TRAINER_VARIABLES and not name.startswith(_TRAINER_PREFIXES)
    }
    package_root = str(Path(megatron_ar3po.__file__).parents[1])
    paths = [package_root, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["PYTHONUNBUFFERED"] = (
        "1"  # the last log lines of a dying server are the ones that matter
    )
    # Connections must outlive a training phase: one that the server closed meanwhile fails the next request sent on it.
    environment["SGLANG_TIMEOUT_KEEP_ALIVE"] = str(_KEEP_ALIVE_S)
    environment.setdefault("HF_HUB_OFFLINE", "1")
    environment.setdefault("SGLANG_EXTERNAL_MODEL_PACKAGE", SERVED_MODELS)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if gpu_ids:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
    if not has_gpu():
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment
