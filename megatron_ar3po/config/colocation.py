"""Section `colocation`: what actor and servers do with the memory that they share."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ar3po.config.at_resume import Free


@dataclass(frozen=True, kw_only=True, slots=True)
class ColocationConfig:
    """What actor and servers do with the accelerators that they share."""

    keep_actor_weights: Free[bool] = False
    """The actor's weights stay on the accelerator during rollouts, which saves two moves of them a step. The servers
    find that much less memory for their KV cache; `ar3po plan` says what is left, and whether it is worth it."""
