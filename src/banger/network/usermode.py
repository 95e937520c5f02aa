"""The embedded path's network: QEMU's user-mode stack, which needs no privileges. IPv4 only.

Every VM has a network of its own, so addresses need not differ; they do, so that a VM keeps one
address on whatever network it is later put. Inside, QEMU itself answers at the gateway and at the
DNS server's address (qemu(1), -netdev user: by default the second and third of the network).
"""

from __future__ import annotations

import socket
from collections.abc import Collection
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
