"""The guests' network: who has which address and MAC address on the bridge. IPv4 only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

import msgspec

from banger.api.errors import ErrorCode, PermanentError
from banger.network.base import GuestNetwork
from banger.network.bridge.egress import Egress, usable_resolvers
from banger.privileged import ops

# The same addresses as in user mode: a VM keeps its own when it is put on the other network.
_FIRST_GUEST = 16


class Lease(msgspec.Struct, frozen=True):
    """A running VM on the bridge: its tap, its address, what it may reach, and what of it is."""

    tap: str
    address: str
    egress: Egress
    published: tuple[ops.Publication, ...] = ()


class Lan:
    """The bridge `bridge` with the network `subnet`, which is at least a /24."""

    def __init__(self, bridge: str, subnet: IPv4Network) -> None:
        self.bridge = bridge
        self.subnet = subnet

    @property
    def gateway(self) -> IPv4Address:
        """The host's own address on the bridge."""
        return self.subnet[1]

    def pick_address(self, taken: Collection[str]) -> str:
        """The lowest address for a guest that is not in `taken`.

        Two who ask at once may get the same: the store's unique key decides between them.
        Raises PermanentError(network_exhausted).
        """
        first = int(self.subnet.network_address) + _FIRST_GUEST
        for number in range(first, int(self.subnet.broadcast_address)):
            address = str(IPv4Address(number))
            if address not in taken:
                return address

        raise PermanentError(
            ErrorCode.NETWORK_EXHAUSTED,
            f"all addresses of {self.subnet} are taken",
            hint="delete VMs, or set a larger network.subnet in config.toml",
        )

    def guest(self, address: str, egress: Egress, resolvers: Collection[str]) -> GuestNetwork:
        """What the guest at `address` is told. Of the host's `resolvers` it hears of those it may
        reach: a name that cannot be looked up then fails at once instead of after a timeout.
        """
        return GuestNetwork(
            mac=mac_address(address),
            address=address,
            prefix=self.subnet.prefixlen,
            gateway=str(self.gateway),
            dns=usable_resolvers(egress, resolvers),
        )


def filter_policy(lan: Lan, leases: Iterable[Lease]) -> ops.ApplyPolicy:
    """What the packet filter is to be for the VMs that run now; the same for the same VMs."""
    guests = (
        ops.Guest(
            tap=lease.tap,
            mac=mac_address(lease.address),
            address=lease.address,
            egress=ops.Egress(lease.egress.mode),
            allow=lease.egress.allow,
            published=lease.published,
        )
        for lease in leases
    )
    return ops.ApplyPolicy(
        bridge=lan.bridge,
        address=str(lan.gateway),
        prefix=lan.subnet.prefixlen,
        guests=tuple(sorted(guests, key=lambda guest: guest.tap)),
    )


def mac_address(address: str) -> str:
    """The MAC address that goes with an address: a locally administered one that is as unique.

    It also keeps the host's neighbour table right when an address passes to another VM.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x06\xfc" + IPv4Address(address).packed)
