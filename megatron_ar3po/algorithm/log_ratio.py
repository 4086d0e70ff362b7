"""Differences of log-probs, before anything is raised to their power.

hold(30) = 20      hold(-0.5) = -0.5      hold(inf) = hold(nan) = nan
"""

from __future__ import annotations

import torch
from torch import Tensor

# e^20 is far outside every clip range; far beyond it float32 overflows, and inf * 0 would make a
# NaN of the whole step.
MAX_ABS_LOG_RATIO = 20.0


def hold(log_ratio: Tensor) -> Tensor:
    """Held to +-20. An infinite one is no large ratio but a log-prob that somebody got wrong: it becomes NaN, so that
    the update is skipped and counted instead of trained on."""
    held = log_ratio.clamp(-MAX_ABS_LOG_RATIO, MAX_ABS_LOG_RATIO)
    return torch.where(log_ratio.isfinite(), held, torch.nan)
