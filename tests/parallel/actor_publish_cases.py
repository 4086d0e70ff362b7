"""Buckets on every rank of a replica, and handles to them: each server rank is given memory of the trainer's rank that
it sits beside. With real server processes of two ranks: tests/e2e/test_publish_to_two_ranks.py."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

import torch
from actor_harness import (
    OF_2,
    OF_4,
    Cut,
    assert_weights_equal,
    checkpoint,
    export_tensors,
    make_actor,
    saved_weights,
)
from torchrun_cases import Cases, raises

CASES = Cases()


class RecordingServer(ThreadingHTTPServer):
    """Takes every call of a publish; keeps who made the handles and what they show."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.makers: list[list[int]] = []  # of each bucket: the process behind each handle
        self.held: list[dict[str, torch.Tensor]] = [{}, {}]  # by server rank
        self.version = "default"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, payloads: Sequence[str]) -> None:
        from sglang.srt.utils import MultiprocessingSerializer

        names = [re.findall(rb"/torch_(\d+)_", base64.b64decode(p)) for p in payloads]
        self.makers.append([int(pid) for (pid,) in names])
        for held, payload in zip(self.held, payloads, strict=False):
            content = MultiprocessingSerializer.deserialize(payload)
            for part in content["metadata"]:
                flat = content["flattened_tensor"][part.start_idx : part.end_idx]
                held[part.name] = flat.view(part.dtype).view(part.shape).clone()


class _Handler(BaseHTTPRequestHandler):
    server: RecordingServer

    def do_GET(self) -> None:
        self._answer({"weight_version": self.server.version})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path == "/update_weights_from_tensor":
            self.server.take(body["serialized_named_tensors"])
        if self.path == "/update_weight_version":
            self.server.version = body["new_version"]
        self._answer({"success": True})

    def _answer(self, answer: Any) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def _servers(number: int) -> Iterator[list[RecordingServer]]:
    servers = [RecordingServer() for _ in range(number)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _publisher(actor: Any, receivers: Sequence[Any]) -> Any:
    from megatron_ar3po.config.weight_sync import WeightSyncConfig
    from megatron_ar3po.distributed.collectives import Ranks
    from megatron_ar3po.weight_sync.publisher import ServerPublisher
    from megatron_ar3po.weight_sync.tensor_transport import TensorTransport

    ranks = Ranks(actor.layout, 60)
    return ServerPublisher(
        actor=actor,
        ranks=ranks,
        servers=lambda: receivers,
        config=WeightSyncConfig(bucket_bytes=50_000),
        transport=TensorTransport(ranks),
    )


@CASES.add(1)
@CASES.add(2, cut=OF_2[:3])
@CASES.add(4, cut=OF_4[:1])
def buckets_are_whole_on_every_rank_where_that_is_asked_for(cut: Cut | None = None) -> None:
    tied = cut is not None and cut.pp == 2
    folder, model = checkpoint("qwen2", tied)
    expected = saved_weights(dict(model.named_parameters()), tied)
    actor = make_actor(folder, cut or Cut())
    for max_bytes in (1, 50_000):
        buckets = actor.hf_buckets(max_bytes, on_every_rank=True)
        got = {name: x.clone() for bucket in buckets for name, x in bucket}
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], x.detach()) for name, x in expected.items())


@CASES.add(2, cut=OF_2[:2])
def each_server_rank_is_given_the_handle_that_its_own_rank_made(cut: Cut) -> None:
    """One server of two ranks beside a replica of two, published to twice, then alone, as after a restart."""
    import torch.distributed as dist

    from megatron_ar3po.weight_sync.receiver import Receiver

    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, cut)
    weights = export_tensors(actor)
    pids: list[Any] = [None, None]
    dist.all_gather_object(pids, os.getpid())
    with _servers(1 if dist.get_rank() == 0 else 0) as servers:
        publisher = _publisher(actor, [Receiver(server.url, (0, 1)) for server in servers])
        url: list[Any] = [servers[0].url if servers else None]
        dist.broadcast_object_list(url, src=0)
        publisher.publish(1)
        publisher.publish(2)
        publisher.republish(url[0])
        publisher.close()
        for server in servers:
            assert server.version == "2"
            assert len(server.makers) > 9 and server.makers == [pids] * len(server.makers)
            for held in server.held:
                assert held.keys() == weights.keys()
                assert all(torch.equal(held[name], weights[name]) for name in weights)


@CASES.add(4)
def servers_of_a_replica_are_each_beside_their_own_ranks() -> None:
    """TP=2 x PP=2 with two servers of two ranks, the second of which has its ranks in the other order."""
    import torch.distributed as dist

    from megatron_ar3po.weight_sync.receiver import Receiver

    folder, _ = checkpoint("qwen2", True)
    actor = make_actor(folder, Cut(tp=2, pp=2))
    weights = export_tensors(actor)
    pids: list[Any] = [None] * 4
    dist.all_gather_object(pids, os.getpid())
    with _servers(2 if dist.get_rank() == 0 else 0) as servers:
        beside = ((0, 1), (3, 2))
        publisher = _publisher(
            actor, [Receiver(s.url, ranks) for s, ranks in zip(servers, beside, strict=False)]
        )
        publisher.publish(1)
        publisher.close()
        for server, ranks in zip(servers, beside, strict=False):
            assert server.makers and all(m == [pids[r] for r in ranks] for m in server.makers)
            for held in server.held:
                assert all(torch.equal(held[name], weights[name]) for name in weights)


@CASES.add(2, loses=(0, 1))
def a_rank_that_cannot_hand_over_a_bucket_fails_the_publish_once(loses: int) -> None:
    """Its second bucket: nobody hangs, the publish is done once more, and the second time it is whole. A rank that
    fails both times ends it on all."""
    import torch.distributed as dist

    from megatron_ar3po.interfaces import WeightPublishError
    from megatron_ar3po.weight_sync.receiver import Receiver
    from megatron_ar3po.weight_sync.shared_bucket import SharedBuckets

    pack, calls, failing = SharedBuckets.pack, [0], [2]

    def fails_at_times(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        if dist.get_rank() == loses and calls[0] in failing:
            raise OSError(28, "No space left on device")
        return pack(self, *arguments)

    folder, _ = checkpoint("qwen2", False)
    actor = make_actor(folder, Cut(tp=2))
    weights = export_tensors(actor)
    with (
        _servers(1 if dist.get_rank() == 0 else 0) as servers,
        patch.object(SharedBuckets, "pack", fails_at_times),
    ):
        publisher = _publisher(actor, [Receiver(server.url, (0, 1)) for server in servers])
        publisher.publish(1)
        for server in servers:
            assert server.version == "1"
            assert all(torch.equal(held[n], weights[n]) for held in server.held for n in weights)
        failing[:], calls[0] = range(1000), 0
        with raises(WeightPublishError, "No space left on device"):
            publisher.publish(2)
        # Once in each of two tries: whoever has heard of a failure makes no handles that nobody will open.
        assert calls[0] == 2, calls
        publisher.close()
    assert_weights_equal(actor, weights, 0.0)
