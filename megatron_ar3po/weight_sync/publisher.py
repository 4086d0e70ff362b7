"""`ServerPublisher`: the order of one publish, agreed over all ranks.

    pause (abort) -> flush -> begin -> bucket, ... -> end -> flush -> (compare) -> set version -> confirm -> continue

(no begin and end when the servers read from disk)

Each replica's leader speaks to its own servers. Its failure does not stop it from taking its part in the export's
collectives: the buckets run dry, then all ranks agree, and all raise together. What may pass (a connection that broke,
a server that refused, shared memory that was gone, a trainer that stood still beyond a time limit) is tried once more,
by all; what is known to last (a server that hangs, weights that are not what was sent) is not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from megatron_ar3po.config.weight_sync import WeightSyncConfig
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.interfaces import Actor, WeightPublishError
from megatron_ar3po.records import Max, Record
from megatron_ar3po.weight_sync.checksums import SentChecksums
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.server_calls import PassingPublishError, ServerCalls
from megatron_ar3po.weight_sync.server_update import ServerUpdate
from megatron_ar3po.weight_sync.shared_bucket import import_sglang
from megatron_ar3po.weight_sync.transport import Transport

logger = logging.getLogger(__name__)


class ServerPublisher:
    """`servers` is called on leaders, at every publish: the replica's running servers, each with `server_tp`
    processes."""

    def __init__(
        self,
        *,
        actor: Actor,
        ranks: Ranks,
        servers: Callable[[], Sequence[Receiver]],
        config: WeightSyncConfig,
        transport: Transport,
        server_tp: int = 1,
    ) -> None:
        self._transport = transport
        self._actor, self._ranks, self._servers = actor, ranks, servers
        self._config, self._server_tp = config, server_tp
        self._published_version = 0
        if ranks.is_leader:  # now, while the servers start; the first publish would wait for it
            import_sglang(with_checksums=config.verify)

    def publish(self, policy_version: int) -> Mapping[str, Record]:
        """Metrics of replica 0, on every rank."""
        started = time.perf_counter()
        self._published_version = policy_version
        leader = self._send_to()
        failures = self._gather_failures(leader)
        if failures and all(may_pass for _, may_pass in failures):
            if self._ranks.is_first:
                text, _ = failures[0]
                logger.warning("version %d is published once more: %s", policy_version, text)
            leader = self._send_to(is_second_try=True)
            failures = self._gather_failures(leader)
        if failures:
            raise WeightPublishError(failures[0][0]) from leader.error
        metrics = {
            "weight_sync/bytes": float(leader.num_bytes),
            "weight_sync/num_buckets": float(leader.num_buckets),
            "weight_sync/server_s": leader.server_s,
            "weight_sync/total_s": time.perf_counter() - started,
        }
        return {name: Max(value) for name, value in self._ranks.broadcast(metrics).items()}

    def republish(self, url: str) -> None:
        """Collective over one replica: a server that was started anew gets what was last published, under the same
        version. The others are not disturbed."""
        self.forget(url)
        leader = self._send_to(url)
        if leader.failure is not None:
            raise WeightPublishError(leader.failure) from leader.error

    def forget(self, url: str) -> None:
        self._transport.forget(url)

    def _gather_failures(self, leader: _LeaderPart) -> list[tuple[str, bool]]:
        """Collective over all ranks: (what failed, whether it may pass) of every leader that failed."""
        outcomes = self._ranks.gather((leader.failure, leader.may_pass))
        return [(text, may_pass) for text, may_pass in outcomes if text is not None]

    def _send_to(self, url: str = "", *, is_second_try: bool = False) -> _LeaderPart:
        """Collective over a replica: to the server at `url` alone, or to all."""
        mine = self._servers() if self._ranks.is_leader else ()
        chosen = [server for server in mine if url in ("", server.url)]
        receivers = self._ranks.broadcast_in_replica(chosen)
        on_every_rank = self._transport.begin(receivers)
        leader = _LeaderPart(
            lambda: self._start_update(receivers, is_second_try), is_leader=self._ranks.is_leader
        )
        for bucket in self._actor.hf_buckets(
            self._config.bucket_bytes, on_every_rank=on_every_rank
        ):
            if not leader.send(bucket):
                self._transport.assist(bucket, is_leader=self._ranks.is_leader)
        leader.finish()
        has_failed = self._ranks.broadcast_in_replica(leader.failure is not None)
        self._transport.release(has_failed=has_failed)
        return leader

    def _start_update(self, receivers: Sequence[Receiver], is_second_try: bool) -> ServerUpdate:
        calls = ServerCalls(
            [receiver.url for receiver in receivers],
            policy_version=self._published_version,
            timeout_s=self._config.timeout_s,
        )
        checksums = SentChecksums(self._server_tp) if self._config.verify else None
        return ServerUpdate(calls, self._transport, checksums, is_second_try=is_second_try)

    def close(self) -> None:
        self._transport.close()


class _LeaderPart:
    """What the leader does with its servers; nothing on other ranks. Keeps the first error instead of raising it."""

    def __init__(self, start: Callable[[], ServerUpdate], *, is_leader: bool) -> None:
        self.error: Exception | None = None
        self.num_bytes, self.num_buckets, self.server_s = 0, 0, 0.0
        self._update: ServerUpdate | None = None
        if is_leader:
            self._attempt(lambda: self._open(start()))

    @property
    def failure(self) -> str | None:
        if self.error is None:
            return None
        if isinstance(self.error, WeightPublishError):
            return str(self.error)
        return f"publishing failed with {type(self.error).__name__}: {self.error}"

    @property
    def may_pass(self) -> bool:
        """What went wrong here rather than at a server may pass as well: memory or a file that was gone."""
        is_known = isinstance(self.error, WeightPublishError)
        return isinstance(self.error, PassingPublishError) or not is_known

    def send(self, bucket: Sequence[tuple[str, Tensor]]) -> bool:
        """Whether it was this one's to send."""
        update = self._update
        if update is None or self.error is not None:
            return False
        self.num_buckets += 1
        self.num_bytes += sum(tensor.nbytes for _, tensor in bucket)
        self._attempt(lambda: update.send(bucket))
        return True

    def finish(self) -> None:
        update = self._update
        if update is None:
            return
        if self.error is None:
            self._attempt(update.finish)
        update.close()

    def _open(self, update: ServerUpdate) -> None:
        self._update = update
        update.open()

    def _attempt(self, action: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            action()
        # The export is collective: raising here would leave the other ranks waiting.
        except Exception as error:
            self.error = error
        self.server_s += time.perf_counter() - started
