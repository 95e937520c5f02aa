"""IPv4 addresses and networks that a bridge, a guest or an allowlist may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from banger.privileged.faults import refused

NEVER = tuple(
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)
"""What no guest reaches: this host itself, its loopback, cloud metadata, groups, reserved."""


def bridge_address(address: str, prefix: int) -> IPv4Interface:
    """A private address that can belong to a host, in a network of 4 to 2**24 addresses."""
    if not 8 <= prefix <= 30:
        raise refused(f"/{prefix} is not a prefix from 8 to 30")

    interface = IPv4Interface((_address(address), prefix))
    network = interface.network
    ends = (network.network_address, network.broadcast_address)
    # An interface counts as private when its address is, however far its network reaches.
    if not network.is_private or interface.ip in ends or _touches_never(network):
        raise refused(f"{interface} is no private address for a bridge")

    return interface


def guest_address(text: str, bridge: IPv4Interface) -> IPv4Address:
    """An address in the bridge's network that is not the bridge's own."""
    address = _address(text)
    ends = (bridge.network.network_address, bridge.network.broadcast_address, bridge.ip)
    if address not in bridge.network or address in ends:
        raise refused(f"{text} is no guest's address on {bridge}")

    return address


def allowed_network(text: str) -> IPv4Network:
    """A network that an allowlist may name: not one that no guest reaches anyway."""
    try:
        network = IPv4Network(text)
    except ValueError:
        raise refused(f"{text[:80]!r} is not an IPv4 network") from None
    if _never(network):
        raise refused(f"guests never reach {network}")

    return network


def published_address(text: str) -> IPv4Address:
    """An address that a port of the host's may be at: one, or all (0.0.0.0), but no group."""
    address = _address(text)
    if address.is_multicast or address.is_reserved:
        raise refused(f"{address} is no address of a host")

    return address


def resolver_address(server: str, port: int, own: str | None) -> str:
    """`server`:`port` as resolvectl(1) takes it: a loopback address or the bridge's `own`."""
    address = _address(server)
    if not 1 <= port <= 65535:
        raise refused(f"{port} is not a port")

    if not address.is_loopback and str(address) != own:
        raise refused(f"{address} is not this host")

    return f"{address}:{port}"


def _never(network: IPv4Network) -> bool:
    return any(network.subnet_of(refused_one) for refused_one in NEVER)


def _touches_never(network: IPv4Network) -> bool:
    return any(network.overlaps(refused_one) for refused_one in NEVER)


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise refused(f"{text[:80]!r} is not an IPv4 address") from None
