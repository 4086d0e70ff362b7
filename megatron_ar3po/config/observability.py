"""Section `observability`: what a run writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservabilityConfig:
    """What a run writes down of itself."""

    record_groups_per_step: int = 2
    """Whole response groups of a recorded step that go to `rollouts.jsonl`, to be read. 0: none."""

    record_every_steps: int = 1
    """Record the groups of every so many training steps."""

    tensorboard: bool = True
    """Write the metrics for TensorBoard too, beside `metrics.jsonl`."""

    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    """Of the log lines of every rank."""
