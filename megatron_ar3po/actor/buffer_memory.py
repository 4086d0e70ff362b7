"""The actor's weights and gradients on the accelerator, or off it.

Gradients are made anew by every update: they are freed here and come back as zeros, and nothing of them is copied
(Megatron-Core 0.16.1, `_ParamAndGradBuffer.offload_to_cpu`). Weights go to pinned memory of the host that is allocated
once: ours, since Megatron's would be rounded up to a power of two, and of the distributed optimizer's buffers alone.
Only their storage is emptied and filled again, so that parameters, views and buffers stay the tensors that they are.
Without an accelerator gradients are freed all the same, and weights lie in the host's memory already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_ar3po.actor.host_copies import HostBuffers


class BufferMemory:
    def __init__(self, buffers: Sequence[Any], *, moves_weights: bool | None = None) -> None:
        """`buffers`: Megatron's, of a model that has just been wrapped for training. `moves_weights`: where there is
        an accelerator, unless it is said."""
        self._buffers = buffers
        self._moves_weights = torch.cuda.is_available() if moves_weights is None else moves_weights
        self.host = HostBuffers()
        self.has_weights = self.has_gradients = True

    def hold(self, *, weights: bool, gradients: bool) -> None:
        """These, and no others. Harmless where it is so already."""
        if weights and not self.has_weights:
            self._bring_weights()
        for buffer in self._buffers:
            if gradients and not self.has_gradients:
                buffer.reload_from_cpu(move_params=False)
            elif self.has_gradients and not gradients:
                buffer.offload_to_cpu(move_params=False)
        if self.has_weights and not weights:
            self._park_weights()
        self.has_weights, self.has_gradients = weights, gradients

    def _park_weights(self) -> None:
        tensors = self._weights()
        for name, on_host in self.host.of(tensors).items():
            storage = tensors[name].untyped_storage()
            assert storage.nbytes() == on_host.nbytes, (
                "something else lies in the storage of a weight"
            )
            on_host.copy_(tensors[name], non_blocking=True)
            storage.resize_(0)

    def _bring_weights(self) -> None:
        tensors = self._weights()
        for name, on_host in self.host.of(tensors).items():
            tensors[name].untyped_storage().resize_(on_host.nbytes)
            tensors[name].copy_(on_host, non_blocking=True)

    def _weights(self) -> dict[str, Tensor]:
        """Each with a storage of its own: the buffers' where the distributed optimizer keeps all weights in them,
        otherwise the parameters'. None where nothing moves."""
        found: dict[str, Tensor] = {}
        for number, buffer in enumerate(self._buffers if self._moves_weights else ()):
            if buffer.param_data is not None:
                found[str(number)] = buffer.param_data
            else:
                found |= {f"{number}.{i}": p.data for i, p in enumerate(buffer.params)}
        return found


def give_back_freed_memory() -> None:
    """What torch's allocator keeps for later goes to the device, where others find it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
