"""`Server`: what the client and the books need of a server, whoever runs it."""

from __future__ import annotations

from typing import Protocol

from megatron_ar3po.usage import Process


class Server(Protocol):
    name: str

    @property
    def url(self) -> str: ...

    @property
    def num_restarts(self) -> int: ...

    def is_running(self) -> bool: ...

    def log_tail(self) -> str: ...


def process_of(server: Server) -> Process:
    return server.name, server.num_restarts


def parse_process(header: str) -> Process | None:
    """
    >>> parse_process("dp0.s1/2")
    ('dp0.s1', 2)
    """
    name, _, restarts = header.rpartition("/")
    return (name, int(restarts)) if name and restarts.isdigit() else None
