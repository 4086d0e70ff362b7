"""Who holds accelerator memory when, as it changes hands: `RUN/logs/memory_rankNNN.jsonl`, a line for each change.

    {"time": 1764384000.1, "rank": 0, "phase": "sync", "holder": "actor", "holds": ["weights"]}

`time`: seconds since 1970, when it was done. `holder`: "actor", which is this rank's part of it, or a server's name.
`holds`: what lies on the accelerator now, or ["gate"] of a server that waits at its gate. Beside a GPU also `used_gib`:
what all processes together hold of this rank's device, as nvidia-smi has it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from megatron_ar3po.platform.accelerator import has_gpu

logger = logging.getLogger(__name__)

_GIB = 1024**3


class MemoryLog:
    def __init__(self, folder: Path, rank: int) -> None:
        """`folder`: RUN/logs."""
        self.path = folder / f"memory_rank{rank:03d}.jsonl"
        self._rank = rank
        self._is_told = False

    def note(self, phase: str, holder: str, holds: Collection[str]) -> None:
        """A disk that takes no more is said once, and the run goes on."""
        line: dict[str, Any] = {"time": time.time(), "rank": self._rank, "phase": phase}
        line |= {"holder": holder, "holds": sorted(holds)}
        if has_gpu():
            import torch  # not without a GPU: the servers start before it is needed

            free, total = torch.cuda.mem_get_info()
            line["used_gib"] = round((total - free) / _GIB, 2)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            if not self._is_told:
                self._is_told = True
                logger.warning("%s cannot be written (%s)", self.path, error.strerror)


def read_memory_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of all ranks, in the order of their times."""
    lines = [
        json.loads(line)
        for path in sorted(folder.glob("memory_rank*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sorted(lines, key=lambda line: line["time"])
