"""The embedded path's network: QEMU's user-mode stack, which needs no privileges. IPv4 only.

Every VM has a network of its own, so addresses need not differ; they do, so that a VM keeps one
address on whatever network it is later put. Inside, QEMU itself answers at the gateway and at the
DNS server's address (qemu(1), -netdev user: by default the second and third of the network).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.network.base import GuestNetwork

_GATEWAY, _DNS = 2, 3
# libslirp's own addresses and its DHCP range begin below; what is above is ours to give.
_FIRST_GUEST = 16

_ROUTES = Path("/proc/net/route")


class UserNetwork:
    """Guests' addresses on `subnet`, which is at least a /24."""

    def __init__(self, subnet: IPv4Network) -> None:
        self._subnet = subnet

    @property
    def cidr(self) -> str:
        return str(self._subnet)

    @property
    def gateway(self) -> str:
        return str(self._subnet[_GATEWAY])

    @property
    def dns(self) -> str:
        return str(self._subnet[_DNS])

    def pick_address(self, taken: Collection[str]) -> str:
        """The lowest address for a guest that is not in `taken`.

        Raises PermanentError(network_exhausted).
        """
        first = int(self._subnet.network_address) + _FIRST_GUEST
        for number in range(first, int(self._subnet.broadcast_address)):
            address = str(IPv4Address(number))
            if address not in taken:
                return address

        raise PermanentError(
            ErrorCode.NETWORK_EXHAUSTED,
            f"all addresses of {self._subnet} are taken",
            hint="delete VMs, or set a larger network.subnet in config.toml",
        )

    def guest(self, address: str, mac: str, *, nat: bool) -> GuestNetwork:
        """What the guest at `address` is told. Without `nat` it has no DNS server: a name that
        cannot be looked up then fails at once instead of after a timeout.
        """
        return GuestNetwork(
            mac=mac,
            address=address,
            prefix=self._subnet.prefixlen,
            gateway=self.gateway,
            dns=(self.dns,) if nat else (),
        )


def mac_address(vm_id: str) -> str:
    """The VM's MAC address: QEMU's prefix 52:54:00 (locally administered), then 3 bytes of the id.

    `vm_id` is twelve hexadecimal digits. Two VMs may share one: they never share a network.
    """
    tail = vm_id[-6:]
    return f"52:54:00:{tail[0:2]}:{tail[2:4]}:{tail[4:6]}"


def port_free(host_ip: str, port: int, protocol: str) -> bool:
    """Whether QEMU could listen on `host_ip:port` now; False also for what we may not listen on."""
    return port_obstacle(host_ip, port, protocol) is None


def port_obstacle(host_ip: str, port: int, protocol: str) -> str | None:
    """Why nobody can listen on `host_ip:port` now, in words; None when it is free."""
    try:
        IPv4Address(host_ip)
    except ValueError:
        # Before bind(2) would be given the time to look a name up.
        return f"{host_ip!r} is not an IPv4 address"

    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                # As libslirp does: connections that linger in TIME_WAIT are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

            probe.bind((host_ip, port))
            if kind is socket.SOCK_STREAM:
                probe.listen(1)
    except OSError as error:
        return _obstacle(error)
    return None


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


def colliding_routes(subnet: IPv4Network, routes: Path = _ROUTES) -> list[str]:
    """Networks the host itself routes that overlap `subnet`, as `10.0.0.0/8 (tun0)`.

    A guest with egress cannot reach those: it takes their addresses for its own network's.
    """
    found = []
    for line in routes.read_text().splitlines()[1:]:
        # proc_net_route: Iface Destination Gateway Flags RefCnt Use Metric Mask, hexadecimal, in
        # host byte order.
        interface, destination, _, _, _, _, _, mask = line.split()[:8]
        if int(mask, 16) == 0:
            continue

        network = IPv4Network((_address(destination), str(_address(mask))))
        if network.overlaps(subnet):
            found.append(f"{network} ({interface})")

    return found


def _address(digits: str) -> IPv4Address:
    return IPv4Address(socket.ntohl(int(digits, 16)))


def _obstacle(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "only root may listen there"

    if error.errno == errno.EADDRNOTAVAIL:
        return "the host has no such address"

    return "it is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
