"""One bucket of tensors as SGLang takes it: flat bytes plus metadata, passed as a handle, not as a copy.

Without a GPU the bytes lie in shared memory. Two buffers serve all buckets of a run in turn, so that one is filled
while servers read the other: a server has read a bucket when it responds, and fresh shared pages cost several times
the copy itself. On a GPU every bucket is a tensor of its own on the GPU that it was made on, passed as a CUDA IPC
handle, since a server may respond before its copy has run: PyTorch frees it when the server has let go. It must come
from an allocator whose memory can be exported (`check_exportable`): the one that lets SGLang's servers sleep cannot,
and stays in their processes.

The class names inside the pickle must be SGLang's own, or its unpickler refuses them: hence the import of the file that
holds them. The pickle itself is that of torch's multiprocessing, which SGLang's own serializer takes as well.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.platform.host_limits import find_missing_shared_memory
from megatron_ar3po.platform.sglang_modules import sglang_without_its_package
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.platform.torchvision_stand_in import stand_in_for_torchvision


def import_sglang(*, with_checksums: bool) -> None:
    """With a GPU, or where checksums are compared, what a publish needs of SGLang takes seconds to import. Best called
    before the first publish, where the servers are waited for anyway, on leaders and on ranks that sit beside a
    server."""
    if not with_checksums and not torch.cuda.is_available():
        return
    ensure_torchvision_schemas()
    stand_in_for_torchvision()
    importlib.import_module("sglang.srt.utils.patch_torch")
    if with_checksums:
        importlib.import_module("sglang.srt.managers.mm_utils")


def check_exportable(environment: Mapping[str, str]) -> None:
    """With a GPU, before anything starts: ValueError where this process's memory could not be handed to a server."""
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in environment.get(name, "").replace(" ", "").lower():
            raise ValueError(
                f"{name}={environment[name]} clashes with weight_sync.transport=tensor: memory of expandable segments "
                f"cannot be exported to a server. Unset {name}, or use weight_sync.transport=disk."
            )
    if "torch_memory_saver" in (preload := environment.get("LD_PRELOAD", "")):
        raise ValueError(
            f"LD_PRELOAD={preload} puts the trainer's memory into the pool that sleeps, from where it cannot be "
            "exported to a server (weight_sync.transport=tensor); the servers set it for themselves: unset it here."
        )


class SharedBuckets:
    """Packs the buckets of publishes. `release` lets the shared memory go; files of a crashed process are removed by
    torch's own shared-memory manager."""

    def __init__(self) -> None:
        self._buffers: list[Tensor | None] = [None, None]

    def pack(self, tensors: Sequence[tuple[str, Tensor]], num_readers: int) -> list[str]:
        """One payload per reading process: unpickling one takes back the reference that pickling it gave. Valid until
        the `pack` after the next, or `release`."""
        if tensors[0][1].is_cuda:
            import_sglang(with_checksums=False)
            from sglang.srt.utils.patch_torch import monkey_patch_torch_reductions

            monkey_patch_torch_reductions()  # device UUIDs: the server may number its GPUs otherwise
        with sglang_without_its_package(), _share_by_file_name():
            flat, metadata = self._flatten(tensors)
            content = {"flattened_tensor": flat, "metadata": metadata}
            return [
                base64.b64encode(ForkingPickler.dumps(content)).decode("ascii")
                for _ in range(num_readers)
            ]

    def release(self, *, keep_host_memory: bool) -> None:
        if not keep_host_memory or torch.cuda.is_available():
            self._buffers = [None, None]
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()

    def _flatten(self, tensors: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, list[Any]]:
        from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorMetadata

        flat = self._buffer_of(sum(x.nbytes for _, x in tensors), tensors[0][1].device)
        metadata, start = [], 0
        for name, x in tensors:
            end = start + x.nbytes
            flat[start:end].view(x.dtype).view(x.shape).copy_(x)
            metadata.append(
                FlattenedTensorMetadata(name, x.shape, x.dtype, start, end, end - start)
            )
            start = end
        return flat, metadata

    def _buffer_of(self, size: int, device: torch.device) -> Tensor:
        """Beside the newest of the two; where it is shared memory, the one that has rested longest serves again, if it
        is large enough."""
        rested, newest = self._buffers
        if device.type == "cuda":
            rested = self._buffers[0] = None  # before the next is allocated
            buffer = torch.empty(size, dtype=torch.uint8, device=device)
        elif rested is None or rested.numel() < size:
            if missing := find_missing_shared_memory(size):
                raise WeightPublishError(
                    f"{missing}, but a bucket of weights takes {size / 2**20:,.1f} MiB of shared memory; empty it, "
                    "give it more, or set weight_sync.transport=disk."
                )
            with _share_by_file_name():
                storage = torch.UntypedStorage._new_shared(size, device="cpu")
            buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        else:
            buffer = rested
        self._buffers = [newest, buffer]
        return buffer[:size]


@contextlib.contextmanager
def _share_by_file_name() -> Iterator[None]:
    """The default passes file descriptors over a socket between parent and child; our servers are neither."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
