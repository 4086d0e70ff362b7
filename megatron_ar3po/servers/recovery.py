"""Brings a server that outlived its trainer back to where a fresh one stands: awake, in no update, generating, idle.
Only the weights stay what they are, until the next trainer publishes its own."""

from __future__ import annotations

import time
from typing import Any

from megatron_ar3po.http_client import HttpError, HttpResponse, request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.lease import ServerState

_CALL_LIMIT_S = 60.0
_IDLE_LIMIT_S = 60.0
_POLL_INTERVAL_S = 0.1
_LOOK_INTERVAL_S = 1.0  # each look is a warning in the log of a server that somebody uses


def recover(url: str, state: ServerState | None) -> list[str]:
    """What was done, in words; empty where nothing was to do. The caller has made sure that nobody uses the server.
    `state` None: it does not tell, and what may be asked twice is asked."""
    done: list[str] = []
    if state is not None and state.asleep:  # first: what follows may touch the weights
        _post(url, "/resume_memory_occupation", {"tags": state.asleep})
        done.append(f"its memory ({', '.join(state.asleep)}) was woken")
    may_have_session = state is None or state.has_session
    if may_have_session and _post(url, "/end_weight_update", {}, accepted=(200, 400)).status == 200:
        done.append("its weight-update session was ended")
    if state is None or state.is_paused:
        _post(url, "/continue_generation", {})
        done.append("generation was continued")
    return done


def drain(url: str) -> list[str]:
    """Aborts what a client that is gone has left in flight, and waits until the server is idle. SGLang empties its
    cache only then, so that is how it is asked."""
    if _is_idle(url):
        return []
    _post(url, "/abort_request", {"abort_all": True})
    deadline = time.monotonic() + _IDLE_LIMIT_S
    while not _is_idle(url):
        if time.monotonic() > deadline:
            raise RolloutEngineError(
                f"server {url} is not idle {_IDLE_LIMIT_S:g} s after its requests were aborted; somebody else samples "
                "from it, or it hangs. End the other client, or start the server anew."
            )
        time.sleep(_POLL_INTERVAL_S)
    return ["its requests in flight were aborted"]


def wait_until_idle(url: str) -> None:
    """For a server that does not say whose its requests are: none is aborted. ValueError when they don't end."""
    deadline = time.monotonic() + _IDLE_LIMIT_S
    while not _is_idle(url):
        if time.monotonic() > deadline:
            raise ValueError(
                f"servers.urls names {url}, which somebody uses: it has had requests in flight for {_IDLE_LIMIT_S:g} s "
                "now. This package did not start it, so it does not say who; one run at a time samples from a server. "
                "Wait for the end of the other client, end it, or start another server."
            )
        time.sleep(_LOOK_INTERVAL_S)


def load_weights(url: str, model_path: str, *, limit_s: float) -> None:
    """Those of a Hugging Face folder, in the place of what the last client has published. `limit_s`: as long as the
    start of a server may take, which loads them too (servers.start_timeout_s)."""
    body = {"model_path": model_path, "weight_version": "default"}
    _post(url, "/update_weights_from_disk", body, limit_s=limit_s)


def _is_idle(url: str) -> bool:
    return _post(url, "/flush_cache", None, accepted=(200, 400)).status == 200


def _post(
    url: str,
    route: str,
    body: dict[str, Any] | None,
    *,
    accepted: tuple[int, ...] = (200,),
    limit_s: float | None = None,
) -> HttpResponse:
    try:
        response = request("POST", url + route, json=body, timeout_s=limit_s or _CALL_LIMIT_S)
    except HttpError as error:
        raise RolloutEngineError(
            f"server {url} does not answer {route}: {error}. Its last client may have died in an update for which it "
            "still waits; start it anew."
        ) from error
    if response.status not in accepted:
        raise RolloutEngineError(
            f"server {url} refuses {route} with HTTP {response.status}: {response.text[:300]}; start it anew."
        )
    return response
