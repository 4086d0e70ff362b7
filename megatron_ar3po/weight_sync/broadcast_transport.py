"""Servers elsewhere receive each bucket by one broadcast (`/update_weights_from_distributed`): NCCL between GPUs, gloo
without. The replica's leader is rank 0 of a group of its own; a server's tensor-parallel ranks follow one another.

The group stands as long as the same servers do. (NCCL cannot have two ranks on one GPU: servers that share the
trainer's GPUs take `weight_sync.transport=tensor`.)
"""

from __future__ import annotations

import datetime
import secrets
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.server_calls import ServerCalls


class BroadcastTransport:
    needs_session = True

    def __init__(self, *, server_tp: int) -> None:
        self._server_tp = server_tp
        self._group: Any = None
        self._name = ""
        self._members: list[str] = []  # of the group as it stands, in their order
        self._joined: dict[str, str] = {}  # the group each server believes to be in
        self._in_flight: tuple[Any, Tensor] | None = None  # the work, and its memory

    def begin(self, receivers: Sequence[Receiver]) -> bool:
        return False

    def assist(self, tensors: Sequence[tuple[str, Tensor]], *, is_leader: bool) -> None: ...

    def open(self, calls: ServerCalls) -> None:
        if self._group is None or self._members != calls.urls:
            self._leave(calls)
            self._join(calls)

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        flat = torch.cat([x.detach().reshape(-1).view(torch.uint8) for _, x in tensors])
        body = {
            "names": [name for name, _ in tensors],
            "dtypes": [str(x.dtype).removeprefix("torch.") for _, x in tensors],
            "shapes": [list(x.shape) for _, x in tensors],
            "group_name": self._name,
            "load_format": "flattened_bucket",
            "flush_cache": False,
            "weight_version": weight_version,
        }
        self._settle(calls)
        calls.start_on_all(lambda url: calls.post(url, "/update_weights_from_distributed", body))
        work = dist.broadcast(flat, src=0, group=self._group, async_op=True)
        self._in_flight = (work, flat)

    def finish(self, calls: ServerCalls, weight_version: str) -> None:
        self._settle(calls)

    def release(self, *, has_failed: bool) -> None:
        if has_failed:  # a broadcast may hang in it for ever: it is left behind, and made anew
            self._group, self._members, self._in_flight, self._joined = None, [], None, {}

    def forget(self, url: str) -> None:
        """Its process left the group; the others are told to leave it when they join the next one."""
        self._joined.pop(url, None)
        self.close()

    def close(self) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _settle(self, calls: ServerCalls) -> None:
        """The servers answer when they have received; a refusal comes without a broadcast, so it is heard first."""
        calls.settle()
        if self._in_flight is not None:
            self._in_flight[0].wait()
            self._in_flight = None

    def _leave(self, calls: ServerCalls) -> None:
        left = {url: name for url in calls.urls if (name := self._joined.pop(url, None))}
        for url, name in left.items():
            calls.post(url, "/destroy_weights_update_group", {"group_name": name})
        self.close()

    def _join(self, calls: ServerCalls) -> None:
        from sglang.srt.utils.common import init_custom_process_group

        address, port = own_address(calls.urls[0]), free_port()
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        # Never used before: a server that outlived its trainer still knows that one's groups, and in containers each
        # trainer has the same process id.
        self._name = f"ar3po-{secrets.token_hex(8)}"
        body = {
            "master_address": address,
            "master_port": port,
            "world_size": 1 + self._server_tp * len(calls.urls),
            "group_name": self._name,
            "backend": backend,
        }
        offset = {url: 1 + i * self._server_tp for i, url in enumerate(calls.urls)}
        calls.start_on_all(
            lambda url: calls.post(
                url, "/init_weights_update_group", body | {"rank_offset": offset[url]}
            )
        )
        try:
            self._group = init_custom_process_group(
                backend=backend,
                init_method=f"tcp://{address}:{port}",
                world_size=body["world_size"],
                rank=0,
                group_name=self._name,
                timeout=datetime.timedelta(seconds=calls.timeout_s),
            )
        except RuntimeError as error:  # torch's DistError among them
            calls.settle()  # a server that refused says more
            raise WeightPublishError(
                f"no process group with {', '.join(calls.urls)} at {address}:{port} within "
                f"weight_sync.timeout_s={calls.timeout_s:g}: {error}. The servers must be able to connect to this "
                "address; on a node with several networks set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME."
            ) from error
        calls.settle()
        self._members = list(calls.urls)
        self._joined |= dict.fromkeys(calls.urls, self._name)


def own_address(url: str) -> str:
    """The address of this machine on the way to `url`: what a server there can connect to. Sends nothing."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname or "127.0.0.1", parts.port or 80))
        return str(probe.getsockname()[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
