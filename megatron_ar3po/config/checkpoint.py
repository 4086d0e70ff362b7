"""Section `checkpoint`: what a resume needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Free
from megatron_ar3po.config.ranges import COUNT, COUNT_OR_0, SECONDS, check_values


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """What a resume needs, and what is left at the end."""

    every_steps: Free[Annotated[int, COUNT_OR_0]] = 0
    """Save after every so many training steps. 0: only after the last one and when the run is asked to stop."""

    keep_last: Free[Annotated[int, COUNT]] = 2
    """Checkpoints of the run's line that are kept; older ones are deleted once a new one is whole. One has about 14
    bytes a parameter."""

    abandoned: Free[Literal["keep", "delete"]] = "keep"
    """What becomes of checkpoints that the run left by going back to an earlier one: moved to `checkpoints/abandoned`,
    where nothing is deleted, or deleted when the new line has its first checkpoint."""

    in_background: Free[bool] = True
    """Training goes on while the files are written, from a copy in host memory. false waits, and needs no room for
    the copy."""

    timeout_s: Free[Annotated[float, SECONDS]] = 1800.0
    """Seconds to write one checkpoint; past them the run ends, with the one before it whole."""

    export_hf: Free[bool] = False
    """Also write the final policy as a Hugging Face folder, `hf` in the run's folder."""

    def __post_init__(self) -> None:
        check_values("checkpoint", self)
