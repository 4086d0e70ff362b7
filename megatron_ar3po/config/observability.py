"""Section `observability`: what a run writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_ar3po.config.at_resume import Free


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservabilityConfig:
    """What a run writes down of itself."""

    record_groups_per_step: Free[int] = 2
    """Whole response groups of a recorded step that go to `rollouts.jsonl`, to be read. 0: none."""

    record_every_steps: Free[int] = 1
    """Record the groups of every so many training steps."""

    tensorboard: Free[bool] = True
    """Write the metrics for TensorBoard too, beside `metrics.jsonl`."""

    log_level: Free[Literal["DEBUG", "INFO", "WARNING"]] = "INFO"
    """Of the log lines of every rank."""
