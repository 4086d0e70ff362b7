"""Section `weight_sync`: weights from the actor to the servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Free
from megatron_ar3po.config.paths import PathText
from megatron_ar3po.config.ranges import LARGEST_64_BIT, SECONDS, Range, check_values


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSyncConfig:
    """How new weights get from the actor to the servers, once a step. docs/checkpoints.md explains."""

    transport: Free[Literal["tensor", "distributed", "disk"]] = "tensor"
    """`tensor`: through the memory of this machine, the fastest where server and replica share it. `distributed`: a
    broadcast to servers with GPUs of their own. `disk`: through a folder that all nodes see."""

    disk_dir: Free[PathText] = ""
    """With `transport=disk`: where the folders of weights lie. Empty: `weight_sync` in the run's folder."""

    bucket_bytes: Free[Annotated[int, Range(ge=1, le=LARGEST_64_BIT)]] = 512 * 1024 * 1024
    """Bytes of one transfer. The extra memory of a publish is about two of them, over TP or PP about four, and smaller
    ones cost more calls."""

    verify: Free[bool] = False
    """After every publish compare checksums of what was sent with what the servers hold. Off by default, since it
    reads all weights once more on both sides."""

    timeout_s: Free[Annotated[float, SECONDS]] = 300.0
    """Seconds for each call to a server during a publish."""

    def __post_init__(self) -> None:
        check_values("weight_sync", self)
