"""The calls of one weight update, to all servers of a replica at once. Every call has a time limit and every refusal is
a `WeightPublishError` that names the server and the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import requests
from torch import Tensor

from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.weight_sync.checksums import SentChecksums
from megatron_ar3po.weight_sync.shared_bucket import SharedBuckets


class ServerUpdate:
    """One publish: open, send each bucket, finish. After a failure the servers stay paused, and stamped with a version
    that no client accepts as soon as one bucket has arrived."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        policy_version: int,
        server_tp: int,
        timeout_s: float,
        verify: bool,
    ) -> None:
        self._urls, self._version, self._server_tp = list(urls), str(policy_version), server_tp
        self._timeout_s = timeout_s
        self._sessions = {url: requests.Session() for url in self._urls}
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self._urls)))
        self._buckets = SharedBuckets()
        self._in_flight: list[Future[requests.Response]] = []
        self._checksums = SentChecksums(server_tp) if verify else None

    def open(self) -> None:
        self._on_all(lambda url: self._post(url, "/pause_generation", {"mode": "abort"}))
        self._on_all(lambda url: self._post(url, "/flush_cache"))
        self._on_all(lambda url: self._post(url, "/begin_weight_update", {"selector": "all"}))

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Returns while the servers read: the next bucket is exported and packed meanwhile. A refusal is raised by the
        next `send`, or by `finish`."""
        if self._checksums is not None:
            self._checksums.add(tensors)
        payloads = self._buckets.pack(tensors, self._server_tp * len(self._urls))
        mine = {
            url: payloads[i * self._server_tp : (i + 1) * self._server_tp]
            for i, url in enumerate(self._urls)
        }
        body = {
            "load_format": "flattened_bucket",
            "flush_cache": False,  # once, at the end
            "weight_version": f"unfinished-{self._version}",
        }
        self._await_sent()
        self._in_flight = [
            self._pool.submit(
                self._post,
                url,
                "/update_weights_from_tensor",
                body | {"serialized_named_tensors": mine[url]},
            )
            for url in self._urls
        ]

    def finish(self) -> None:
        self._await_sent()
        self._on_all(lambda url: self._post(url, "/end_weight_update", {}))
        self._on_all(lambda url: self._post(url, "/flush_cache"))
        if self._checksums is not None:
            self._on_all(self._compare)
        stamp = {"new_version": self._version, "abort_all_requests": False}
        self._on_all(lambda url: self._post(url, "/update_weight_version", stamp))
        self._on_all(self._confirm_version)
        self._on_all(lambda url: self._post(url, "/continue_generation", {}))

    def close(self) -> None:
        self._pool.shutdown()
        self._buckets.close()
        for session in self._sessions.values():
            session.close()

    def _await_sent(self) -> None:
        sent, self._in_flight = self._in_flight, []
        for outcome in sent:
            outcome.result()

    def _on_all(self, call: Callable[[str], Any]) -> None:
        for outcome in [self._pool.submit(call, url) for url in self._urls]:
            outcome.result()

    def _compare(self, url: str) -> None:
        assert self._checksums is not None
        answer = self._post(url, "/weights_checker", {"action": "checksum"}).json()
        differences = self._checksums.differences(answer["ranks"])
        if differences:
            shown = ", ".join(differences[:8])
            raise WeightPublishError(
                f"server {url} does not hold the weights that were sent as version {self._version}: {len(differences)} "
                f"tensors: {shown}. It stays paused; restart it, and report this if it comes back."
            )

    def _confirm_version(self, url: str) -> None:
        held = self._call("GET", url, "/model_info").json().get("weight_version")
        if held != self._version:
            raise WeightPublishError(
                f"server {url} took the weights but says weight_version={held!r} instead of {self._version!r}; "
                "does something else publish to it?"
            )

    def _post(self, url: str, route: str, body: dict[str, Any] | None = None) -> requests.Response:
        return self._call("POST", url, route, body)

    def _call(
        self, method: str, url: str, route: str, body: dict[str, Any] | None = None
    ) -> requests.Response:
        try:
            answer = self._sessions[url].request(
                method, url + route, json=body, timeout=self._timeout_s
            )
        except requests.Timeout as error:
            raise WeightPublishError(
                f"server {url} did not answer {route} within weight_sync.timeout_s={self._timeout_s:g}; it hangs, or "
                "the limit is too small for its size."
            ) from error
        except requests.RequestException as error:
            raise WeightPublishError(f"server {url} was lost at {route}: {error}") from error
        if answer.status_code != 200:
            raise WeightPublishError(
                f"server {url} refused {route} of version {self._version} with status {answer.status_code}: "
                f"{answer.text[:500]}"
            )
        return answer
