"""What a server says of itself, and what its log says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_ar3po import http_client

_INFO_TIMEOUT_S = 30.0
_LAST_LOG_LINES = 15


def told(url: str, route: str, name: str, *, timeout_s: float = _INFO_TIMEOUT_S) -> Any:
    """One field of the JSON at a route. `HttpError`, or `ValueError` where the response does not have it."""
    response = http_client.request("GET", url + route, timeout_s=timeout_s)
    try:
        return response.json()[name]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no {name} in {response.text[:200]!r}") from error


def last_lines(log_path: Path) -> str:
    if not log_path.is_file():
        return f"There is no log at {log_path}."
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = "\n".join(f"    {line[:300]}" for line in lines[-_LAST_LOG_LINES:])
    return f"Last lines of {log_path}:\n{shown}"
