"""What every leader may tell the router: which servers it sends to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.interfaces import RolloutEngineError

_HEALTHY_LIMIT_S = 60.0
_CALL_TIMEOUT_S = 10.0
_BACK_LIMIT_S = 180.0  # for the first replica to restart it
_POLL_INTERVAL_S = 0.1


class RouterControl:
    """What every leader may tell the router."""

    def __init__(self, url: str) -> None:
        self.url = url

    def remove(self, url: str) -> None:
        """Nothing is sent there any more. Harmless for one it does not know."""
        deadline = time.monotonic() + _HEALTHY_LIMIT_S
        for worker in self.workers():
            if worker["url"] == url:
                self._call("DELETE", f"/workers/{worker['id']}", accepted=(200, 202, 404))
        while any(worker["url"] == url for worker in self.workers()):
            self._give_up_after(deadline, f"did not let go of {url}")

    def add(self, url: str) -> None:
        """Returns when requests may go there. A router that was restarted meanwhile may know it already: it queues
        additions, and a second one that is late would bring back a server that was removed after the first."""
        if not any(worker["url"] == url for worker in self.workers()):
            self._call("POST", "/workers", {"url": url}, accepted=(200, 202))
        self.wait_healthy({url}, _HEALTHY_LIMIT_S)

    def wait_healthy(self, urls: set[str], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not urls <= (healthy := {w["url"] for w in self.workers() if w["is_healthy"]}):
            self._give_up_after(deadline, f"knows {sorted(healthy)} as healthy, not {sorted(urls)}")

    def workers(self) -> list[dict[str, Any]]:
        return self._call("GET", "/workers")["workers"]

    def _give_up_after(self, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            raise RolloutEngineError(
                f"the router {self.url} {what} within {_HEALTHY_LIMIT_S:g} s; look at RUN/logs."
            )
        time.sleep(_POLL_INTERVAL_S)

    def _call(
        self, verb: str, path: str, body: Any = None, *, accepted: Sequence[int] = (200,)
    ) -> dict[str, Any]:
        """A router that died is restarted by the first replica meanwhile."""
        deadline = time.monotonic() + _BACK_LIMIT_S
        while True:
            try:
                response = request(verb, self.url + path, json=body, timeout_s=_CALL_TIMEOUT_S)
                break
            except HttpError as error:
                if time.monotonic() > deadline:
                    raise RolloutEngineError(
                        f"the router {self.url} did not answer {path} within {_BACK_LIMIT_S:g} s: {error}; look at "
                        "RUN/logs/router.log."
                    ) from error
                time.sleep(_POLL_INTERVAL_S)
        if response.status not in accepted:
            raise RolloutEngineError(
                f"the router {self.url} refused {verb} {path} with HTTP {response.status}: {response.text[:300]}"
            )
        return response.json() if response.body else {}
