"""TensorBoard as a metric sink: event files under RUN/tensorboard, by TensorBoard's own record writer. torch's would
import torch for it, and writes in a thread that hangs where the disk is full."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILE_VERSION = "brain.Event:2"


class TensorBoardSink:
    run_id = ""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """`first_step`: what an earlier writer left of it and of later steps is no longer shown."""
        # slow to import, and not wanted everywhere
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((folder / name).open("xb"))
        self._protos: Any = event_pb2
        self._add(file_version=_FILE_VERSION)
        if first_step > 0:
            restart = self._protos.SessionLog(status=self._protos.SessionLog.START)
            self._add(step=first_step, session_log=restart)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """All of a row in one event: an event of each number takes ten times as long."""
        from tensorboard.compat.proto.summary_pb2 import (
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )

        values = [Summary.Value(tag=name, simple_value=x) for name, x in row.items()]
        self._add(step=step, summary=Summary(value=values))
        self._writer.flush()

    def _add(self, **fields: Any) -> None:
        event = self._protos.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())

    def close(self, *, is_done: bool) -> None:
        self._writer.close()
