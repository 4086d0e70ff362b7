"""One logger for the package. Rank 0 tells the story of the run; other leaders speak from WARNING on; the rest whisper
errors only. Lines are tagged with the rank's place when there is more than one rank."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TextIO

from megatron_ar3po.distributed.layout import ParallelLayout

ROOT = "megatron_ar3po"


class _LogFile(logging.FileHandler):
    """A disk that takes no more is said once, and the run goes on: what it was told stands on the console too."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_told:
            self._is_told = True
            print(f"{self.baseFilename} cannot be written ({error.strerror})", file=sys.stderr)


class _Formatter(logging.Formatter):
    """A warning says that it is one: `ar3po watch` finds it by that."""

    def __init__(self, tag: str) -> None:
        super().__init__(f"%(asctime)s{tag} %(marker)s%(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.marker = "warning: " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at the moment, so that lines appear above a progress bar and not through it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """The base class sets one; sys.stderr decides."""


def setup_logging(layout: ParallelLayout, level: str, *, folder: Path | None = None) -> None:
    """Console on stderr; with `folder`, rank 0's lines also go to folder/train.log."""
    logger = logging.getLogger(ROOT)
    logger.handlers.clear()
    logger.propagate = False
    quiet = logging.WARNING if layout.is_leader else logging.ERROR
    logger.setLevel(level if layout.rank == 0 else quiet)
    tag = (
        ""
        if layout.world_size == 1
        else f" [dp{layout.dp_rank} tp{layout.tp_rank} pp{layout.pp_rank}]"
    )
    formatter = _Formatter(tag)
    handlers: list[logging.Handler] = [_CurrentStderr()]
    if folder is not None and layout.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(folder / "train.log"))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
