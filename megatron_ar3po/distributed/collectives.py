"""How ranks talk about plain Python values: broadcast inside a replica, gather over replicas, agree on an error.

Everything here goes over gloo on the host, with a time limit; tensors of the model go over Megatron's own groups. A run
of one rank has nobody to talk to: its `Ranks` need no process group, and no torch, which takes seconds to import.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any, TypeVar

from megatron_ar3po.distributed.launched_ranks import gpu_of_rank, read_rank
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.peer_error import PeerError
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.distributed.stragglers import ALL_RANKS

Value = TypeVar("Value")

_ALL, _REPLICA, _PEERS = ALL_RANKS, "its replica", "its peers in other replicas"
_LONE_RANK_S = 60.0  # until a rank says that it waits for the others
_DONE = "done"  # the leader's last word in run_on_leader; a request is a tuple


def start_process_group(timeout_s: float) -> tuple[int, int]:
    """Joins the process group torchrun or srun prepared (env RANK, WORLD_SIZE, ...), or makes one of a single rank.
    Returns (rank, world size)."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    rank, world_size = read_rank(os.environ)
    timeout = datetime.timedelta(seconds=timeout_s)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(gpu_of_rank(os.environ, torch.cuda.device_count()))
    if world_size > 1:
        reminder = Timer(_LONE_RANK_S, _tell_whom_it_waits_for, (rank, world_size))
        reminder.daemon = True
        reminder.start()
        try:
            dist.init_process_group(backend, timeout=timeout)
        except dist.DistError as error:  # a node that has not come, or cannot reach the first one
            raise PeerError(
                f"the ranks did not meet within run.collective_timeout_s={timeout_s:g} s: {error}. Of several nodes, "
                "the one whose node_*.log lacks the line '[node] ... torch.distributed.run' has not started; if none "
                "does, MASTER_ADDR is not reached from all (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME, a firewall)."
            ) from error
        finally:
            reminder.cancel()
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
    return rank, world_size


def end_process_group() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _tell_whom_it_waits_for(rank: int, world_size: int) -> None:
    """Before there is a log, and before it is known whether anybody else will come."""
    address = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    advice = "If this is meant to be a run of one process, unset these four."
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has started them, and means several
        advice = "The end of each node's log tells which of them has not come so far."
    print(
        f"ar3po: rank {rank} of {world_size} (RANK, WORLD_SIZE) waits for the others at {address} (MASTER_ADDR, "
        f"MASTER_PORT). {advice}",
        file=sys.stderr,
        flush=True,
    )


class Ranks:
    """The control plane of one run: this rank's layout and its host-side groups."""

    def __init__(self, layout: ParallelLayout, timeout_s: float) -> None:
        self.layout = layout
        self.watch = RankWatch(layout.rank, layout.world_size)
        self._services: dict[str, Callable[..., None]] = {}
        self._world = self._replica = self._peers = None
        if layout.world_size > 1:
            self._join(layout, datetime.timedelta(seconds=timeout_s))

    def _join(self, layout: ParallelLayout, timeout: datetime.timedelta) -> None:
        import torch.distributed as dist

        self._world = dist.new_group(backend="gloo", timeout=timeout)
        self._replica = self._make_groups(
            [layout.replica_ranks(dp) for dp in range(layout.data_parallel_size)], timeout
        )
        peers = [
            [layout.rank_of(tp=tp, dp=dp, pp=pp, cp=cp) for dp in range(layout.data_parallel_size)]
            for pp in range(layout.pipeline_parallel_size)
            for cp in range(layout.context_parallel_size)
            for tp in range(layout.tensor_parallel_size)
        ]
        self._peers = self._make_groups(peers, timeout)

    def _make_groups(self, groups: Sequence[Sequence[int]], timeout: datetime.timedelta) -> Any:
        """new_group is collective over the world: every rank makes every group and keeps its own."""
        import torch.distributed as dist

        mine = None
        for ranks in groups:
            group = dist.new_group(list(ranks), backend="gloo", timeout=timeout)
            if self.layout.rank in ranks:
                mine = group
        return mine

    @property
    def is_leader(self) -> bool:
        return self.layout.is_leader

    @property
    def is_first(self) -> bool:
        """Rank 0: writes the run's files and tells its story."""
        return self.layout.rank == 0

    def run_on_leader(self, task: Callable[[], Value]) -> Value:
        """Collective over all ranks: each replica's leader runs `task`; every rank of the replica gets its result. If
        any leader fails, every rank of the run raises. While `task` runs, the other ranks of the replica stand ready
        for what the leader may ask with `call_in_replica`."""
        value, error = None, None
        if self.is_leader:
            try:
                value = task()
            except Exception as raised:  # it must reach every rank before it travels on, or they wait for us in vain
                error = raised
            self.broadcast_in_replica(_DONE)
        else:
            while (asked := self.broadcast_in_replica(None)) != _DONE:
                self._run_service(*asked)  # type: ignore[misc]
        self.agree_on_error(error)
        return self.broadcast_in_replica(value)  # type: ignore[return-value]

    def only_on_leader(self, make: Callable[[], Value]) -> Value | None:
        """Collective over all ranks: what `make` makes stays with the leader that made it, such as a server's client or
        an open file; None on every other rank. A failure of any leader raises on all, as in `run_on_leader`."""
        return _made_by(make, self.run_on_leader)

    def only_on_first(self, make: Callable[[], Value]) -> Value | None:
        """As `only_on_leader`, of rank 0 alone."""
        return _made_by(make, self.run_on_first)

    def offer(self, name: str, service: Callable[..., None]) -> None:
        """Every rank of a replica offers the same services before they are asked for."""
        self._services[name] = service

    def call_in_replica(self, name: str, *arguments: Any) -> None:
        """Leader only, inside `run_on_leader`: every rank of the replica runs the service, which may be collective over
        the replica. A failure of any of them raises here."""
        self.broadcast_in_replica((name, arguments))
        self._run_service(name, arguments)

    def _run_service(self, name: str, arguments: tuple[Any, ...]) -> None:
        error = None
        try:
            self._services[name](*arguments)
        except (
            Exception
        ) as raised:  # the leader must learn of it; it raises, and run_on_leader tells everyone
            error = raised
        text = None if error is None else f"{type(error).__name__}: {error}"
        texts = self.gather_in_replica(text)
        if self.is_leader and (failed := [text for text in texts if text is not None]):
            raise (
                error
                if error is not None
                else PeerError(f"service {name} failed on a rank of this replica: {failed[0]}")
            )

    def run_on_first(self, task: Callable[[], Value]) -> Value:
        """Collective over all ranks: rank 0 runs `task`, everyone gets its result or its failure."""
        value, error = None, None
        if self.is_first:
            try:
                value = task()
            except Exception as raised:  # as in run_on_leader
                error = raised
        self.agree_on_error(error)
        return self.broadcast(value)  # type: ignore[return-value]

    def agree_on_error(self, error: Exception | None) -> None:
        """Collective over all ranks: if one failed, all raise: its own error where it happened, PeerError elsewhere."""
        line = None if error is None else f"{type(error).__name__}: {error}"
        failed = [(r, text) for r, text in enumerate(self.gather(line)) if text is not None]
        if error is not None:
            raise self.watch.agree(error)
        if failed:
            rank, text = failed[0]
            raise PeerError(f"rank {rank} failed and this rank stops with it. It said: {text}")

    def gather(self, value: Value) -> list[Value]:
        """Collective over all ranks; the values in rank order on every rank."""
        with self._collective(_ALL):
            return _all_gather(value, self._world)

    def gather_over_replicas(self, value: Value) -> list[Value]:
        """Collective; one value per replica, in data-parallel order, from the ranks with this rank's (tp, cp, pp)."""
        with self._collective(_PEERS):
            return _all_gather(value, self._peers)

    def gather_in_replica(self, value: Value) -> list[Value]:
        """Collective over a replica; the values in the order of `layout.replica_ranks` on every rank of it."""
        with self._collective(_REPLICA):
            return _all_gather(value, self._replica)

    def broadcast_in_replica(self, value: Value) -> Value:
        """Collective over a replica; the leader's value on every rank of it."""
        with self._collective(_REPLICA):
            return _broadcast(value, self.layout.leader_rank(self.layout.dp_rank), self._replica)

    def broadcast(self, value: Value) -> Value:
        """Collective over all ranks; rank 0's value."""
        with self._collective(_ALL):
            return _broadcast(value, 0, self._world)

    @contextmanager
    def _collective(self, others: str) -> Iterator[None]:
        """Around every collective: who waits is known to `watch`, and one that fails names the stragglers."""
        with self.watch.collective(others, is_of_all=others == _ALL):
            try:
                yield
            except RuntimeError as error:  # gloo: a time limit, or a peer that has gone
                why = str(error).rpartition("] ")[2].splitlines()[0].rstrip(".")
                what = f"a collective of rank {self.layout.rank} with {others} failed: {why}."
                raise PeerError(f"{what} {self.watch.describe_stragglers()}".rstrip()) from error

    def any(self, flag: bool) -> bool:
        """Collective over all ranks: true on all if true on one."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        self.gather(None)


def _made_by(make: Callable[[], Value], run: Callable[[Callable[[], None]], None]) -> Value | None:
    """What `make` returned where `run` ran it: only that it is done travels to the other ranks."""
    made: Value | None = None

    def task() -> None:
        nonlocal made
        made = make()

    run(task)
    return made


def _size_of(group: Any) -> int:
    if group is None:  # of a run of one rank
        return 1
    import torch.distributed as dist

    return dist.get_world_size(group)


def _all_gather(value: Value, group: Any) -> list[Value]:
    size = _size_of(group)
    if size == 1:
        return [value]
    import torch.distributed as dist

    out: list[Any] = [None] * size
    dist.all_gather_object(out, value, group=group)
    return out


def _broadcast(value: Value, source: int, group: Any) -> Value:
    if _size_of(group) == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=source, group=group)
    return box[0]
