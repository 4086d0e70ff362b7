"""What a run has inherited and could not go on with, asked on each rank before anything starts. A run alone asks:
`--dry-run` and `ar3po plan` may be called on another machine. What can be mended is mended before
(platform/process_environment.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from megatron_ar3po.config.schema import Config
from megatron_ar3po.platform import accelerator
from megatron_ar3po.platform.determinism import read_num_threads
from megatron_ar3po.platform.host_limits import check_open_files
from megatron_ar3po.wiring.metric_sinks import check_sinks


def check_environment(
    config: Config, environment: Mapping[str, str] = os.environ, *, has_gpu: bool | None = None
) -> None:
    """Raises ValueError with the variable or the limit. `has_gpu`: None asks this machine."""
    check_sinks(config.observability)
    check_open_files(config.servers.max_concurrent_requests)
    hands_over_memory = config.debug.mode == "full" and config.weight_sync.transport == "tensor"
    if hands_over_memory and (accelerator.has_gpu() if has_gpu is None else has_gpu):
        from megatron_ar3po.weight_sync.shared_bucket import check_exportable  # imports torch

        check_exportable(environment)
    if config.run.deterministic:
        read_num_threads(environment)
