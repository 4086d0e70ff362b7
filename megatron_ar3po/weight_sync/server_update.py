"""One update of all servers of a replica, in the order that SGLang wants."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.weight_sync.checksums import SentChecksums
from megatron_ar3po.weight_sync.server_calls import ServerCalls
from megatron_ar3po.weight_sync.transport import Transport


class ServerUpdate:
    """One publish: open, send each bucket, finish. After a failure the servers stay paused, and state a version that no
    client accepts as soon as one bucket has arrived."""

    def __init__(
        self,
        calls: ServerCalls,
        transport: Transport,
        checksums: SentChecksums | None,
        *,
        is_second_try: bool = False,
    ) -> None:
        self._calls, self._transport, self._checksums = calls, transport, checksums
        self._is_second_try = is_second_try
        self._unfinished_version = f"unfinished-{calls.version}"

    def open(self) -> None:
        post = self._calls.post
        self._calls.on_all(lambda url: post(url, "/pause_generation", {"mode": "abort"}))
        self._calls.on_all(self._flush_cache)
        if self._is_second_try and self._transport.needs_session:  # the first may have left its own
            end, accepted = "/end_weight_update", (200, 400)
            self._calls.on_all(lambda url: post(url, end, {}, accepted=accepted))
        self._transport.open(self._calls)
        if self._transport.needs_session:
            self._calls.on_all(lambda url: post(url, "/begin_weight_update", {"selector": "all"}))

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """A refusal is raised by the next `send`, or by `finish`."""
        if self._checksums is not None:
            self._checksums.add(tensors)
        self._transport.send(self._calls, tensors, self._unfinished_version)

    def finish(self) -> None:
        post = self._calls.post
        self._transport.finish(self._calls, self._unfinished_version)
        if self._transport.needs_session:
            self._calls.on_all(lambda url: post(url, "/end_weight_update", {}))
        self._calls.on_all(self._flush_cache)
        if self._checksums is not None:
            self._calls.on_all(self._compare)
        version = {"new_version": self._calls.version, "abort_all_requests": False}
        self._calls.on_all(lambda url: post(url, "/update_weight_version", version))
        self._calls.on_all(self._confirm_version)
        self._calls.on_all(lambda url: post(url, "/continue_generation", {}))

    def close(self) -> None:
        self._calls.close()

    def _flush_cache(self, url: str) -> None:
        """Waits for a request that was aborted to leave its batch, within half the limit of a call."""
        self._calls.post(url, f"/flush_cache?timeout={self._calls.timeout_s / 2:g}")

    def _compare(self, url: str) -> None:
        assert self._checksums is not None
        response = self._calls.post(url, "/weights_checker", {"action": "checksum"}).json()
        differences = self._checksums.differences(response["ranks"])
        if differences:
            shown = ", ".join(differences[:8])
            raise WeightPublishError(
                f"server {url} does not hold the weights that were sent as version {self._calls.version}: "
                f"{len(differences)} tensors: {shown}. It stays paused; restart it, and report this if it comes back."
            )

    def _confirm_version(self, url: str) -> None:
        held = self._calls.get(url, "/model_info").json().get("weight_version")
        if held != self._calls.version:
            raise WeightPublishError(
                f"server {url} took the weights but says weight_version={held!r} instead of {self._calls.version!r}; "
                "does something else publish to it?"
            )
