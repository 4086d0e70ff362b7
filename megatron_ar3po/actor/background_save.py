"""The files of a distributed checkpoint, written by a thread of each rank while training goes on.

Megatron plans a save and hands out what to write; its own background writers fork or spawn a process, the one behind
the back of the threads that exist by then, the other by importing the main program anew. A thread needs neither: what
it does is writing, and Python lets go of its lock meanwhile. `snapshot` costs one copy of this rank's part in host
memory until it is written.

Only `finish` makes the files a checkpoint: it writes the list of what lies where, so a folder that was left in the
middle is none.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from torch.distributed.checkpoint.api import CheckpointException

Buckets = list[tuple[Any, ...]]  # Megatron's: (path, storage key, (byte items, tensor items))


def results_in_this_process() -> None:
    """Before a save is planned: where writers leave their results. Megatron would start a manager process for it."""
    filesystem_async._results_queue = queue.Queue()


class BackgroundSave:
    """An `interfaces.PendingSave`. The tensors are copied when it is made: what happens to the model later is not in
    the checkpoint."""

    def __init__(self, folder: Path, request: AsyncRequest) -> None:
        self._folder, self._request = folder, request
        self._thread: threading.Thread | None = None
        if request.async_fn is not None:  # None: nothing of it lies on this rank
            self._thread = threading.Thread(
                target=self._write, args=(snapshot(request),), name="checkpoint", daemon=True
            )
            self._thread.start()

    def is_written(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def finish(self) -> None:
        if self._thread is not None:
            self._thread.join()  # the caller asks is_written first and bounds its waiting
        try:
            for finalize in self._request.finalize_fns:
                finalize()
        except CheckpointException as error:  # no Exception: it would pass every door of ours
            reasons = "; ".join(f"rank {r}: {why[0]}" for r, why in error.failures.items())
            raise RuntimeError(
                f"the checkpoint {self._folder} could not be written ({reasons or 'see the log of rank 0'}). The one "
                "before it stays whole; make room, then resume with run.resume=true."
            ) from error

    def _write(self, buckets: Buckets) -> None:
        writer: Any = filesystem_async.FileSystemWriterAsync
        transforms = self._request.async_fn.args[0]  # type: ignore[union-attr]
        written: dict[int, Any] = {}
        results: queue.Queue[Any] = self._request.async_fn_args[2]
        for index, bucket in enumerate(buckets):
            answers: queue.Queue[Any] = queue.Queue()
            pending: queue.Queue[int] = queue.Queue()
            pending.put(index)
            writer.write_preloaded_data(transforms, index, bucket, answers, pending, True)
            _, answer = answers.get_nowait()
            if isinstance(answer, Exception):
                results.put(answer)  # Megatron raises it on every rank when it collects the results
                return
            written[index] = answer
        results.put(written)


class SavedTogether:
    """Several folders of one checkpoint."""

    def __init__(self, saves: Sequence[BackgroundSave]) -> None:
        self._saves = saves

    def is_written(self) -> bool:
        return all(save.is_written() for save in self._saves)

    def finish(self) -> None:
        for save in self._saves:
            save.finish()


def snapshot(request: AsyncRequest) -> Buckets:
    """What to write, in host memory of its own: a tensor that lies on the host already is copied, since training goes
    on to change it."""
    assert request.preload_fn is not None
    planned: Buckets = request.async_fn_args[1]
    on_host: Buckets = request.preload_fn()
    return [
        (
            path,
            key,
            (
                byte_items,
                [
                    (item, tensor.clone() if original.is_cpu else tensor)
                    for (item, tensor), (_, original) in zip(tensors, originals, strict=True)
                ],
            ),
        )
        for (path, key, (byte_items, tensors)), (_, _, (_, originals)) in zip(
            on_host, planned, strict=True
        )
    ]
