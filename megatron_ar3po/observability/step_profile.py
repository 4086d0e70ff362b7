"""RUN/profile/: what PyTorch saw of chosen steps on each rank, for `debug.profile_steps` and `debug.memory_steps`.

step_00012.rank0000.json.gz         torch.profiler's trace, for https://ui.perfetto.dev or chrome://tracing
step_00012.rank0000.memory.pickle   the history of CUDA's allocator, for https://pytorch.org/memory_viz
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from megatron_ar3po.disk_faults import naming

logger = logging.getLogger(__name__)

_MOST_ALLOCATIONS = 1_000_000  # of one step; the newest stay


class StepProfiles:
    """Of this rank. A step that is in neither list costs a look at both."""

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        profile_steps: Collection[int] = (),
        memory_steps: Collection[int] = (),
    ) -> None:
        self._folder = folder
        self._rank = rank
        self._profile_steps, self._memory_steps = frozenset(profile_steps), frozenset(memory_steps)

    @contextmanager
    def profile(self, step: int) -> Iterator[None]:
        """Around the whole of a step."""
        with ExitStack() as stack:
            if step in self._memory_steps:
                stack.enter_context(self._keep_memory(step))
            if step in self._profile_steps:
                stack.enter_context(self._trace(step))
            yield

    @contextmanager
    def _trace(self, step: int) -> Iterator[None]:
        from torch.profiler import ProfilerActivity, profile, supported_activities

        wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
        with profile(activities=wanted & supported_activities()) as profiler:
            yield
        path = self._path(step, "json.gz")
        with naming(path):
            profiler.export_chrome_trace(str(path))
        logger.info("profile of step %d: %s", step, path)

    @contextmanager
    def _keep_memory(self, step: int) -> Iterator[None]:
        import torch

        if not torch.cuda.is_available():
            logger.warning(
                "debug.memory_steps names step %d, and this rank has no CUDA device, whose allocator alone keeps a "
                "history: nothing is written. memory/peak_bytes in metrics.jsonl is what there is on a CPU.",
                step,
            )
            yield
            return
        memory: Any = torch.cuda.memory
        memory._record_memory_history(max_entries=_MOST_ALLOCATIONS)
        try:
            yield
            path = self._path(step, "memory.pickle")
            with naming(path):
                memory._dump_snapshot(str(path))
            logger.info("memory of step %d: %s", step, path)
        finally:
            memory._record_memory_history(enabled=None)

    def _path(self, step: int, ending: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"step_{step:05d}.rank{self._rank:04d}.{ending}"
