"""How the bytes of an update travel: three ways, one interface.

    tensor        a handle to shared memory or GPU memory of this machine      tensor_transport.py
    distributed   a broadcast over the network, for servers elsewhere           broadcast_transport.py
    disk          a folder that the trainer writes and the servers read         disk_transport.py

All three stream bucket by bucket. The order of the calls around them is `ServerUpdate`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from megatron_ar3po.config.weight_sync import WeightSyncConfig
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.server_calls import ServerCalls


class Transport(Protocol):
    """Lives as long as the run, on every rank. `begin`, `assist`, `release` and `close` are every rank's, the rest is
    the leader's of a replica, who speaks to its servers."""

    needs_session: bool  # SGLang wants /begin_weight_update and /end_weight_update around it

    def begin(self, receivers: Sequence[Receiver]) -> bool:
        """First of all in an update, on every rank of the replica. Whether each of them must be given the buckets, or
        the leader alone."""
        ...

    def open(self, calls: ServerCalls) -> None:
        """Before the first bucket of an update."""
        ...

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        """May return while the servers still read; a refusal is then raised by the next `send`, or by `finish`. The
        tensors are the caller's again when it returns. `weight_version`: stated by the servers until the update is
        whole."""
        ...

    def assist(self, tensors: Sequence[tuple[str, Tensor]], *, is_leader: bool) -> None:
        """A bucket on the ranks that do not `send` it: those that are no leader, and a leader that has failed."""
        ...

    def finish(self, calls: ServerCalls, weight_version: str) -> None:
        """Returns when every server has taken everything."""
        ...

    def release(self, *, has_failed: bool) -> None:
        """After every update: what need not be kept until the next one goes."""
        ...

    def forget(self, url: str) -> None:
        """The server at `url` was started anew and knows nothing of earlier updates."""
        ...

    def close(self) -> None: ...


def make_transport(
    config: WeightSyncConfig, ranks: Ranks, *, server_tp: int, model_path: Path, folder: Path
) -> Transport:
    """`folder` is this replica's own, for `transport=disk`."""
    if config.transport == "disk":
        from megatron_ar3po.weight_sync.disk_transport import DiskTransport

        return DiskTransport(model_path=model_path, folder=folder)
    if config.transport == "distributed":
        from megatron_ar3po.weight_sync.broadcast_transport import BroadcastTransport

        return BroadcastTransport(server_tp=server_tp)
    from megatron_ar3po.weight_sync.tensor_transport import TensorTransport

    return TensorTransport(ranks)
