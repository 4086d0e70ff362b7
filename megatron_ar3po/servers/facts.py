"""What a server says of itself, and what its log says of it."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

_INFO_TIMEOUT_S = 30.0
_LAST_LOG_LINES = 15


def told(url: str, route: str, name: str, *, timeout_s: float = _INFO_TIMEOUT_S) -> Any:
    """One field of the JSON at a route. Raises what a connection may, `ValueError` or `KeyError`."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout_s)
    try:
        connection.request("GET", route)
        return json.loads(connection.getresponse().read())[name]
    finally:
        connection.close()


def last_lines(log_path: Path) -> str:
    if not log_path.is_file():
        return f"There is no log at {log_path}."
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = "\n".join(f"    {line[:300]}" for line in lines[-_LAST_LOG_LINES:])
    return f"Last lines of {log_path}:\n{shown}"
