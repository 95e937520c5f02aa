"""The host's ports: who may have one, which are free. IPv4."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address

from banger.api.errors import ErrorCode, PermanentError


def hold(host_ip: str, port: int, protocol: str) -> socket.socket:
    """Listen on `host_ip:port`, so that nobody else can. Raises OSError, ValueError."""
    # Before bind(2) would be given the time to look a name up.
    IPv4Address(host_ip)
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    held = socket.socket(socket.AF_INET, kind)
    try:
        if kind is socket.SOCK_STREAM:
            # As libslirp does: connections that linger in TIME_WAIT are no obstacle.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        held.bind((host_ip, port))
        if kind is socket.SOCK_STREAM:
            held.listen(1)
    except BaseException:
        held.close()
        raise

    return held


def port_free(host_ip: str, port: int, protocol: str) -> bool:
    """Whether we could listen on `host_ip:port` now; False also for what we may not listen on."""
    return port_obstacle(host_ip, port, protocol) is None


def port_obstacle(host_ip: str, port: int, protocol: str) -> str | None:
    """Why we cannot listen on `host_ip:port` now, in words; None when it is free."""
    try:
        hold(host_ip, port, protocol).close()
    except (OSError, ValueError) as error:
        return obstacle(error)
    return None


def obstacle(error: OSError | ValueError) -> str:
    """What kept `hold` from it, in words."""
    if isinstance(error, ValueError):
        return "that is not an IPv4 address"

    if error.errno == errno.EACCES:
        return "only root may listen there"

    if error.errno == errno.EADDRNOTAVAIL:
        return "the host has no such address"

    return "it is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)


def pick_port(ports: Sequence[int], taken: Collection[int], host_ip: str = "127.0.0.1") -> int:
    """The first TCP port of `ports` that is neither in `taken` nor listened on.

    Raises PermanentError(network_exhausted).
    """
    for port in ports:
        if port not in taken and port_free(host_ip, port, "tcp"):
            return port

    raise PermanentError(
        ErrorCode.NETWORK_EXHAUSTED,
        f"all ports from {ports[0]} to {ports[-1]} are taken",
        hint="delete VMs, or set a wider network.ssh_ports in config.toml",
    )
