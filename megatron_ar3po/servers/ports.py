"""Ports that stay ours between the moment they are chosen and the moment a process listens on them."""

from __future__ import annotations

import errno
import socket

HOST = "127.0.0.1"


def reserve_port(port: int, host: str = HOST) -> socket.socket:
    """A bound socket that never listens: the system hands the port to nobody else, and the server can still bind it,
    since both ask for SO_REUSEADDR."""
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reservation.bind((host, port))
    except OSError as error:
        reservation.close()
        reason = (
            "Another process holds it; choose another port, or 0 for a free one from the system."
            if error.errno == errno.EADDRINUSE
            else f"Servers listen on IPv4 addresses of this node: give it {host}, or a port above 1023."
        )
        raise ValueError(
            f"servers.port={port} cannot be used on {host}: {error.strerror}. {reason}"
        ) from error
    return reservation
