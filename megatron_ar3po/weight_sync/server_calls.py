"""HTTP calls to all servers of a replica at once. Every call has a time limit, and every refusal is a
`WeightPublishError` that names the server, the call and the version."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from megatron_ar3po.http_client import HttpError, HttpResponse, HttpTimeout, request
from megatron_ar3po.interfaces import WeightPublishError

# A call that took so many times its limit was not watched meanwhile: this process stood still.
_OVERSLEPT = 1.5


class PassingPublishError(WeightPublishError):
    """What another try may not meet again."""


class ServerCalls:
    """`urls` in a fixed order: a server's place in it is its place among the readers of a bucket."""

    def __init__(self, urls: Sequence[str], *, policy_version: int, timeout_s: float) -> None:
        self.urls, self.version, self.timeout_s = list(urls), str(policy_version), timeout_s
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self.urls)))
        self._started: list[Future[Any]] = []

    def on_all(self, call: Callable[[str], Any]) -> None:
        for outcome in [self._pool.submit(call, url) for url in self.urls]:
            outcome.result()

    def start_on_all(self, call: Callable[[str], Any]) -> None:
        """Returns at once; what goes wrong is raised by `settle`."""
        self._started = [self._pool.submit(call, url) for url in self.urls]

    def settle(self) -> None:
        """Waits for what `start_on_all` began."""
        started, self._started = self._started, []
        for outcome in started:
            outcome.result()

    def post(
        self,
        url: str,
        route: str,
        body: dict[str, Any] | None = None,
        *,
        accepted: Sequence[int] = (200,),
    ) -> HttpResponse:
        return self._call("POST", url, route, body, accepted)

    def get(self, url: str, route: str) -> HttpResponse:
        return self._call("GET", url, route)

    def close(self) -> None:
        self._pool.shutdown()

    def _call(
        self,
        method: str,
        url: str,
        route: str,
        body: dict[str, Any] | None = None,
        accepted: Sequence[int] = (200,),
    ) -> HttpResponse:
        started = time.monotonic()
        try:
            response = request(method, url + route, json=body, timeout_s=self.timeout_s)
        except HttpTimeout as error:
            waited_s = time.monotonic() - started
            if waited_s > _OVERSLEPT * self.timeout_s:
                raise PassingPublishError(
                    f"this process stood still for about {waited_s:.0f} s while server {url} was to answer {route}"
                ) from error
            raise WeightPublishError(
                f"server {url} did not answer {route} within weight_sync.timeout_s={self.timeout_s:g}; it hangs, or "
                "the limit is too small for its size."
            ) from error
        except HttpError as error:
            raise PassingPublishError(f"server {url} was lost at {route}: {error}") from error
        if response.status not in accepted:
            raise PassingPublishError(
                f"server {url} refused {route} of version {self.version} with status {response.status}: "
                f"{response.text[:500]}"
            )
        return response
