"""The gate of a server that starts (SGLang's `gated_launch_port`). Before it the server imports and its processes meet,
which takes most of the time and, on a GPU, a context; behind it are weights, KV cache and graphs.

SGLang measures the free memory when the gate opens and divides that, so who opens it must have let go of the rest.
"""

from __future__ import annotations

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.servers.ports import HOST, reserve_port

_CALL_LIMIT_S = 5.0


class Gate:
    def __init__(self, host: str = HOST) -> None:
        self._host = host
        self._reservation = reserve_port(0, host)
        self.port: int = self._reservation.getsockname()[1]
        self.is_closed = False  # a process that starts with its port finds it closed

    def open(self) -> bool:
        """Whether it is open now. A server that still imports does not hear, and is to be asked again."""
        if self.is_closed:
            try:
                url = f"http://{self._host}:{self.port}/gate/activate"
                self.is_closed = request("POST", url, timeout_s=_CALL_LIMIT_S).status != 200
            except HttpError:  # it does not listen yet, or has died
                return False
        return not self.is_closed
