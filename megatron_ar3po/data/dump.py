"""One step's training samples in a file, to be replayed at any layout. Plain tensors and numbers: loading one
runs no code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_ar3po.types import TrainingSample

_FORMAT = 1


def save_samples(
    path: Path, samples: Sequence[TrainingSample], *, step: int, policy_version: int
) -> None:
    rows = [
        {
            name: torch.from_numpy(np.asarray(value).copy())
            if isinstance(value, np.ndarray)
            else value
            for name in TrainingSample.__dataclass_fields__
            for value in [getattr(sample, name)]
        }
        for sample in samples
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"format": _FORMAT, "step": step, "policy_version": policy_version, "samples": rows}, path
    )


def load_samples(path: Path) -> list[TrainingSample]:
    """Raises ValueError for a file that is no dump of this format."""
    content = torch.load(path, weights_only=True)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"debug.replay_path={path} is not a dumped step of format {_FORMAT}; dump one with debug.dump_steps=[1]."
        )
    return [_sample(row) for row in content["samples"]]


def _sample(row: dict[str, Any]) -> TrainingSample:
    values: dict[str, Any] = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in row.items()
    }
    return TrainingSample(**values)
