"""The files of a distributed checkpoint, written by a thread of each rank while training goes on.

Megatron plans a save and hands out what to write; its own background writers fork or spawn a process, the one behind
the back of the threads that exist by then, the other by importing the main program anew. A thread needs neither: what
it does is writing, and Python lets go of its lock meanwhile. `snapshot` costs one copy of this rank's part in host
memory, of which each file's share goes when the file is written.

Only `finish` makes the files a checkpoint: it writes the list of what lies where, so a folder that was left in the
middle is none.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import SerializationFormat, _write_item
from torch.distributed.checkpoint.storage import WriteResult

from megatron_ar3po.disk_faults import CheckpointNotWrittenError, naming
from megatron_ar3po.file_digests import DigestingFile, FileDigest

Buckets = list[tuple[Any, ...]]  # Megatron's: (path, storage key, (byte items, tensor items))


def results_in_this_process() -> None:
    """Before a save is planned: where writers leave their results. Megatron would start a manager process for it."""
    filesystem_async._results_queue = queue.Queue()


def live_storages(state: dict[str, Any]) -> set[int]:
    """Of the tensors in a sharded state, before it is handed to Megatron: where model and optimizer live."""
    return {
        sharded.data.untyped_storage().data_ptr()
        for sharded in nested_values(state)
        if isinstance(sharded, ShardedTensor | ShardedTensorFactory) and sharded.data is not None
    }


class BackgroundSave:
    """An `interfaces.PendingSave`. The tensors are copied when it is made: what happens to the model later is not in
    the checkpoint."""

    def __init__(self, folder: Path, request: AsyncRequest, live: set[int]) -> None:
        """`live`: the storages that training goes on to change."""
        self.folder, self._request = folder, request
        self._digests: dict[str, FileDigest] = {}  # of the files written so far
        self._thread: threading.Thread | None = None
        if request.async_fn is not None:  # None: nothing of it lies on this rank
            self._thread = threading.Thread(
                target=self._write, args=(snapshot(request, live),), name="checkpoint", daemon=True
            )
            self._thread.start()

    def is_written(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def finish(self) -> dict[str, FileDigest]:
        if self._thread is not None:
            self._thread.join()  # the caller asks is_written first and bounds its waiting
        try:
            with naming(self.folder):
                for finalize in self._request.finalize_fns:
                    finalize()
        except CheckpointException as error:  # no Exception: it would pass every door of ours
            reasons = "; ".join(f"rank {r}: {why[0]}" for r, why in error.failures.items())
            raise CheckpointNotWrittenError(
                f"the checkpoint {self.folder} could not be written ({reasons or 'see the log of rank 0'}). The one "
                "before it stays whole; make room, then resume with run.resume=true."
            ) from error
        return self._digests

    def _write(self, buckets: Buckets) -> None:
        transforms = self._request.async_fn.args[0]  # type: ignore[union-attr]
        results: queue.Queue[Any] = self._request.async_fn_args[2]
        try:
            written: dict[int, list[WriteResult]] = {}
            for number, bucket in enumerate(buckets):
                with naming(Path(bucket[0])):
                    written[number], digest = write_bucket(bucket, transforms)
                self._digests[os.path.relpath(bucket[0], self.folder)] = digest
                bucket[2][1].clear()  # its tensors: they are on the disk
        except Exception as error:  # Megatron raises it on every rank when it collects the results
            results.put(error)
            return
        results.put(written)


def write_bucket(
    bucket: tuple[Any, ...], transforms: Sequence[Any]
) -> tuple[list[WriteResult], FileDigest]:
    """One file, as Megatron's `FileSystemWriterAsync.write_preloaded_data` writes it, and summed up on the way."""
    path, storage_key, (byte_items, tensor_items) = bucket
    form = SerializationFormat.TORCH_SAVE
    write: Any = _write_item
    with open(path, "wb") as file:
        stream = DigestingFile(file)
        written = [
            write(*transforms, stream, data, item, storage_key, form)
            for item, data in (*byte_items, *tensor_items)
        ]
        file.flush()
        os.fsync(file.fileno())
    return written, stream.digest


class SavedTogether:
    """Several folders of one checkpoint."""

    def __init__(self, folder: Path, saves: Sequence[BackgroundSave]) -> None:
        self._folder, self._saves = folder, saves

    def is_written(self) -> bool:
        return all(save.is_written() for save in self._saves)

    def finish(self) -> dict[str, FileDigest]:
        """Paths are those under `folder`."""
        return {
            (save.folder / name).relative_to(self._folder).as_posix(): digest
            for save in self._saves
            for name, digest in save.finish().items()
        }


def snapshot(request: AsyncRequest, live: set[int]) -> Buckets:
    """What to write, in host memory of its own and only once. Megatron has copied what is part of a larger tensor on
    the host; the rest of what lies there, and is in `live`, is copied here, and so is what lies on an accelerator. Not
    by `request.preload_fn`: it copies to pinned memory of torch's, in powers of two and never given back."""
    planned: Buckets = request.async_fn_args[1]
    taken: Buckets = []
    for path, key, (byte_items, tensors) in planned:
        copies = [(item, _on_host(tensor, live)) for item, tensor in tensors]
        tensors.clear()  # nobody asks for them any more, and they may be copies
        taken.append((path, key, (byte_items, copies)))
    return taken


def _on_host(tensor: Tensor, live: set[int]) -> Tensor:
    if tensor.device.type != "cpu":
        return tensor.to("cpu")
    return tensor.clone() if tensor.untyped_storage().data_ptr() in live else tensor
