"""Servers on this machine get a handle to memory that the trainer has filled (`/update_weights_from_tensor`).

Each of a server's tensor-parallel ranks gets a handle of its own, to memory of the trainer's rank that sits on the same
GPU: a server's weights lie in memory that only their own GPU maps, and SGLang copies a bucket into them from where it
is. So a bucket is whole on every rank of the replica, each packs it for the server ranks beside it, and one exchange of
handles a bucket brings them to the leader, who posts them in the order of the server's ranks. Where the leader sits
beside every server rank (one GPU a replica, or none at all) it packs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.server_calls import PassingPublishError, ServerCalls
from megatron_ar3po.weight_sync.shared_bucket import SharedBuckets


@dataclass(frozen=True, slots=True)
class _Handles:
    """What one rank brings to an exchange."""

    rank: int
    payloads: tuple[str, ...] = ()  # one for each server rank beside it, in the receivers' order
    failure: str = ""
    may_pass: bool = True

    @classmethod
    def of_failure(cls, rank: int, error: Exception) -> _Handles:
        is_known = isinstance(error, WeightPublishError)
        may_pass = isinstance(error, PassingPublishError) or not is_known
        return cls(rank, failure=str(error) if is_known else repr(error), may_pass=may_pass)


class TensorTransport:
    """While servers read one bucket, the next is exported and packed."""

    needs_session = True

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._buckets = SharedBuckets()
        self._receivers: Sequence[Receiver] = ()
        self._is_shared_out = self._has_failed = False

    def begin(self, receivers: Sequence[Receiver]) -> bool:
        layout = self._ranks.layout
        leader = layout.leader_rank(layout.dp_rank)
        self._receivers, self._has_failed = receivers, False
        self._is_shared_out = any(rank != leader for r in receivers for rank in r.ranks)
        return self._is_shared_out

    def open(self, calls: ServerCalls) -> None: ...

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        error, mine = None, _Handles(self._ranks.layout.rank)
        try:
            mine = self._pack(tensors)
            # Before the exchange: whoever has passed it may fill the buffer that was read last but one.
            calls.settle()
        except Exception as raised:  # the other ranks wait at the exchange
            error, mine = raised, _Handles.of_failure(self._ranks.layout.rank, raised)
        found = self._exchange(mine)
        if error is not None:
            raise error
        for handles in found:
            if handles.failure:
                kind = PassingPublishError if handles.may_pass else WeightPublishError
                raise kind(
                    f"rank {handles.rank} could not hand a bucket of version {calls.version} to the server beside it: "
                    f"{handles.failure}"
                )
        by_rank = {handles.rank: iter(handles.payloads) for handles in found}
        payloads = {r.url: [next(by_rank[rank]) for rank in r.ranks] for r in self._receivers}
        body = {
            "load_format": "flattened_bucket",
            "flush_cache": False,
            "weight_version": weight_version,
        }
        calls.start_on_all(
            lambda url: calls.post(
                url,
                "/update_weights_from_tensor",
                body | {"serialized_named_tensors": payloads[url]},
            )
        )

    def assist(self, tensors: Sequence[tuple[str, Tensor]], *, is_leader: bool) -> None:
        if not self._is_shared_out:
            return
        mine = _Handles(self._ranks.layout.rank, failure="an earlier failure" if is_leader else "")
        if not is_leader and not self._has_failed:
            try:
                mine = self._pack(tensors)
            except Exception as raised:  # the leader must learn of it, and waits at the exchange
                mine = _Handles.of_failure(mine.rank, raised)
        # Handles that nobody opens would keep their memory: after a failure there are none any more.
        self._has_failed |= any(handles.failure for handles in self._exchange(mine))

    def finish(self, calls: ServerCalls, weight_version: str) -> None:
        calls.settle()

    def release(self, *, has_failed: bool) -> None:
        """Shared host memory is kept: fresh pages would cost more than the copies. After a failure a server may still
        read it, and GPU memory must be free for the servers: then it goes."""
        self._buckets.release(keep_host_memory=not has_failed)

    def forget(self, url: str) -> None: ...

    def close(self) -> None:
        self._buckets.release(keep_host_memory=False)

    def _pack(self, tensors: Sequence[tuple[str, Tensor]]) -> _Handles:
        rank = self._ranks.layout.rank
        num_readers = sum(receiver.ranks.count(rank) for receiver in self._receivers)
        payloads = self._buckets.pack(tensors, num_readers) if num_readers else []
        return _Handles(rank, tuple(payloads))

    def _exchange(self, mine: _Handles) -> list[_Handles]:
        """Collective over the replica where more than the leader packs."""
        return self._ranks.gather_in_replica(mine) if self._is_shared_out else [mine]
