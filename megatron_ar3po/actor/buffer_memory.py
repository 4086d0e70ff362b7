"""The actor's weights and gradients on the accelerator, or off it.

Gradients are made anew by every update: they are freed here and come back as zeros, and nothing of them is copied
(Megatron-Core 0.16.1, `_ParamAndGradBuffer.offload_to_cpu`). Weights go to pinned memory of the host that is allocated
once: ours, since Megatron's would be rounded up to a power of two (`actor.host_copies`). Without an accelerator
gradients are freed all the same, and weights lie in the host's memory already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

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
        if self._moves_weights and self.has_weights and not weights:
            self._prepare_host()
        for buffer in self._buffers:
            buffer.reload_from_cpu(
                move_params=self._moves_weights and weights and not self.has_weights,
                move_grads=gradients and not self.has_gradients,
            )
            buffer.offload_to_cpu(
                move_params=self._moves_weights and self.has_weights and not weights,
                move_grads=self.has_gradients and not gradients,
            )
        self.has_weights, self.has_gradients = weights, gradients

    def _prepare_host(self) -> None:
        """Megatron copies to `param_data_cpu` and allocates where there is none."""
        weights = {
            str(number): buffer.param_data
            for number, buffer in enumerate(self._buffers)
            if buffer.param_data is not None  # without the distributed optimizer
        }
        for name, on_host in self.host.of(weights).items():
            self._buffers[int(name)].param_data_cpu = on_host
