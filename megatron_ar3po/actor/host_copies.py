"""Host memory for what leaves the accelerator, allocated once and pinned, and the stream of the copies there and back.

A copy off or onto a GPU runs beside the program only if its host side is pinned. torch's own pinned memory comes in
powers of two (33 GiB take 64), so here it is a mapping of its own that is registered with the driver: as large as what
it holds, at pages that nothing else shares. Without a GPU the same lines copy in place, and nothing is registered.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

_ALIGNMENT = 256  # bytes, of each tensor in its block


class CopyStream(Protocol):
    """Copies in their order, beside the current stream."""

    def follow(self) -> None:
        """What is queued from here on waits for what the current stream has been given so far."""
        ...

    def room_for(self, tensor: Tensor) -> Tensor:
        """On the accelerator, for what lies on the host. Without one that is where it lies."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queued. Neither may be touched, or freed, before `be_awaited` or `synchronize`."""
        ...

    def be_awaited(self) -> None:
        """What the current stream is given from here on waits for the copies. The program does not."""
        ...

    def synchronize(self) -> None:
        """The program waits for the copies."""
        ...


class CudaCopyStream:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def room_for(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=self._stream.device)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def be_awaited(self) -> None:
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()


class CopiesAtOnce:
    """Without a GPU: a copy is done when it is asked for, and what is on the host is where it is needed. So what was
    parked once stays in its buffer, and the host does not hold it twice."""

    def follow(self) -> None: ...

    def room_for(self, tensor: Tensor) -> Tensor:
        return tensor

    def copy(self, target: Tensor, source: Tensor) -> None:
        if target.data_ptr() != source.data_ptr():
            target.copy_(source)

    def be_awaited(self) -> None: ...

    def synchronize(self) -> None: ...


class HostBlock:
    """Pages of their own, which go with the last tensor in them; beside a GPU they are pinned while it is there."""

    def __init__(self, num_bytes: int, driver: Any = None) -> None:
        """`driver`: CUDA's runtime, which pins. RuntimeError: it pins no more."""
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory = torch.frombuffer(pages, dtype=torch.uint8)  # keeps the pages
        if driver is not None:
            self._pin(driver)

    def _pin(self, driver: Any) -> None:
        address, size = self.memory.data_ptr(), self.memory.nbytes
        if error := int(driver.cudaHostRegister(address, size, 0)):
            raise RuntimeError(
                f"{size / 1024**3:.1f} GiB of host memory could not be pinned (CUDA error {error}). The actor parks "
                "its weights and optimizer there while servers use the GPU; `ar3po plan` says how much host memory a "
                "node needs. Give the job more memory, or more nodes."
            )
        # Before the pages go: the driver would keep a mapping of addresses that are given out anew.
        weakref.finalize(self, driver.cudaHostUnregister, address).atexit = False


class HostBuffers:
    """A buffer for each name, that stays. All that are missing at once come from one block."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._blocks: list[HostBlock] = []

    @property
    def num_blocks(self) -> int:
        """Allocations so far."""
        return len(self._blocks)

    @property
    def num_bytes(self) -> int:
        return sum(block.memory.nbytes for block in self._blocks)

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By the same names, of the same shapes and types, with what they held last. Where a tensor no longer has the
        size of its buffer, all are given new ones."""
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is not None and _form(buffer) != _form(tensor):
                self._buffers, self._blocks = {}, []
                break
        missing = {name: x for name, x in tensors.items() if name not in self._buffers}
        if missing:
            self._allocate(missing)
        return {name: self._buffers[name] for name in tensors}

    def _allocate(self, tensors: Mapping[str, Tensor]) -> None:
        sizes = {name: -(-x.nbytes // _ALIGNMENT) * _ALIGNMENT for name, x in tensors.items()}
        driver = torch.cuda.cudart() if torch.cuda.is_available() else None
        block = HostBlock(max(sum(sizes.values()), 1), driver)
        begin = 0
        for name, x in tensors.items():
            memory = block.memory[begin : begin + x.nbytes]
            self._buffers[name] = memory.view(x.dtype).view(x.shape)
            begin += sizes[name]
        self._blocks.append(block)


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def copy_stream(device: torch.device) -> CopyStream:
    return CudaCopyStream(device) if device.type == "cuda" else CopiesAtOnce()
