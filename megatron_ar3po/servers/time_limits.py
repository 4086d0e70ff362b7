"""How long a server is waited for, where the config leaves it to the device."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.platform.accelerator import has_gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    start_s: float
    hang_s: float


_ON_CPU = TimeLimits(start_s=600.0, hang_s=120.0)
# A cold load of 65 GB at 100 MB/s is 650 s; graphs are captured after it. Below `run.collective_timeout_s`: the ranks
# that wait for the leader would give up before it says which server did not come. The first request of a server warms
# it up (`arguments`), but a batch of a shape that is met later still compiles or tunes its kernels.
_ON_GPU = TimeLimits(start_s=1500.0, hang_s=300.0)


def time_limits(config: ServersConfig, *, on_gpu: bool | None = None) -> TimeLimits:
    """`on_gpu` None: as on this machine.

    >>> time_limits(ServersConfig(hang_timeout_s=7.0), on_gpu=True)
    TimeLimits(start_s=1500.0, hang_s=7.0)
    """
    of_device = _ON_GPU if (has_gpu() if on_gpu is None else on_gpu) else _ON_CPU
    return TimeLimits(
        start_s=config.start_timeout_s or of_device.start_s,
        hang_s=config.hang_timeout_s or of_device.hang_s,
    )
