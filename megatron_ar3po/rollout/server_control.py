"""What a replica's servers are told beside sampling and weights: sleep, wake, which version to stamp. Leader only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import requests

from megatron_ar3po.interfaces import RolloutEngineError


class ServerControl:
    """Sleep and wake are SGLang's `/release_memory_occupation` and `/resume_memory_occupation`. Tags:
    'weights', 'kv_cache'."""

    def __init__(self, urls: Callable[[], Sequence[str]], *, timeout_s: float) -> None:
        self._urls = urls
        self._timeout_s = timeout_s

    def sleep(self, tags: Sequence[str]) -> None:
        """The KV cache must be empty first: SGLang refuses to release it under a running request."""
        self._post("/flush_cache", None)
        self._post("/release_memory_occupation", {"tags": list(tags)})

    def wake(self, tags: Sequence[str]) -> None:
        """Weights come back uninitialised: publish before sampling."""
        self._post("/resume_memory_occupation", {"tags": list(tags)})

    def stamp(self, policy_version: int) -> None:
        """The servers' weights stay; their answers carry this version from now on."""
        self._post(
            "/update_weight_version",
            {"new_version": str(policy_version), "abort_all_requests": False},
        )

    def _post(self, path: str, body: dict[str, Any] | None) -> None:
        for url in self._urls():
            try:
                answer = requests.post(url + path, json=body, timeout=self._timeout_s)
            except requests.RequestException as error:
                raise RolloutEngineError(f"server {url} did not answer {path}: {error}") from error
            if answer.status_code != 200:
                raise RolloutEngineError(
                    f"server {url} refused {path} with HTTP {answer.status_code}: {answer.text[:300]}"
                )
