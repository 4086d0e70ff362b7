"""What a server says of itself when it is asked."""

from __future__ import annotations

from typing import Any

from megatron_ar3po import http_client

_TIMEOUT_S = 30.0


def get_field(url: str, route: str, name: str, *, timeout_s: float = _TIMEOUT_S) -> Any:
    """One field of the JSON at a route. `HttpError`, or `ValueError` where the response does not have it."""
    response = http_client.request("GET", url + route, timeout_s=timeout_s)
    try:
        return response.json()[name]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no {name} in {response.text[:200]!r}") from error
