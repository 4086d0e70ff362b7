"""Where the servers of a node listen: on loopback when all ranks are on one node, else on the node's own address."""

from __future__ import annotations

import ipaddress
import os
import socket

from megatron_ar3po.servers.ports import HOST

ADDRESS_VARIABLE = (
    "AR3PO_NODE_ADDRESS"  # of this node, where the one below is not what others reach
)


def node_address() -> str:
    """Of this node, as the others reach it: AR3PO_NODE_ADDRESS, or the address on the way to MASTER_ADDR."""
    stated = os.environ.get(ADDRESS_VARIABLE, "")
    if stated:
        return parse_address(stated)
    master = os.environ.get("MASTER_ADDR", HOST)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
            probe.connect((master, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ValueError(
            f"MASTER_ADDR={master} is not reached over IPv4 from here ({error.strerror}), so this node's own address "
            f"is not known; set {ADDRESS_VARIABLE} on each node to the IPv4 address that the other nodes reach."
        ) from error


def parse_address(address: str) -> str:
    """
    >>> parse_address("10.0.0.7")
    '10.0.0.7'
    """
    try:
        return str(ipaddress.IPv4Address(address))
    except ipaddress.AddressValueError as error:
        raise ValueError(
            f"{ADDRESS_VARIABLE}={address} is no IPv4 address; set it on each node to the one that the other nodes "
            "reach, or leave it unset."
        ) from error
