"""Servers on this machine get a handle to memory that the trainer has filled (`/update_weights_from_tensor`)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_ar3po.weight_sync.server_calls import ServerCalls
from megatron_ar3po.weight_sync.shared_bucket import SharedBuckets


class TensorTransport:
    """While servers read one bucket, the next is exported and packed."""

    needs_session = True

    def __init__(self, *, server_tp: int) -> None:
        self._server_tp = server_tp
        self._buckets = SharedBuckets()

    def open(self, calls: ServerCalls) -> None: ...

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        tp = self._server_tp
        payloads = self._buckets.pack(tensors, tp * len(calls.urls))
        mine = {url: payloads[i * tp : (i + 1) * tp] for i, url in enumerate(calls.urls)}
        body = {
            "load_format": "flattened_bucket",
            "flush_cache": False,
            "weight_version": weight_version,
        }
        calls.settle()
        calls.start_on_all(
            lambda url: calls.post(
                url,
                "/update_weights_from_tensor",
                body | {"serialized_named_tensors": mine[url]},
            )
        )

    def finish(self, calls: ServerCalls, weight_version: str) -> None:
        calls.settle()

    def release(self, *, has_failed: bool) -> None:
        """Shared host memory is kept: fresh pages would cost more than the copies. After a failure a server may still
        read it, and GPU memory must be free for the servers: then it goes."""
        self._buckets.release(keep_host_memory=not has_failed)

    def forget(self, url: str) -> None: ...

    def close(self) -> None:
        self._buckets.release(keep_host_memory=False)
