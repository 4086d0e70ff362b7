"""What a checkpoint takes on disk: for the plan, and for every node that looks whether it has room. Imports little."""

from __future__ import annotations

from megatron_ar3po.config.schema import Config
from megatron_ar3po.model_shape import ModelShape


def width_of(config: Config) -> int:
    """Bytes of a weight."""
    return 2 if config.model.dtype == "bfloat16" else 4


def checkpoint_bytes(config: Config, shape: ModelShape) -> int:
    """On disk, of all ranks together: the weights, and in fp32 a copy of them and two moments, which Megatron's
    distributed optimizer writes also where the weights are fp32 (distrib_optimizer.py:1057)."""
    return shape.num_parameters * (width_of(config) + 12)
