"""Which network the guests get: one that takes nothing away from what the host reaches already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

import msgspec

from banger.api.errors import ErrorCode, PermanentError
from banger.host import runner

# VPNs that take everything route two halves (0.0.0.0/1, 128.0.0.0/1): a default route in disguise.
_WIDEST = 4
_MULTICAST = IPv4Network("224.0.0.0/3")

# Tried in this order after the configured network. The last are for measuring network devices
# (RFC 2544), so they are nobody's; 100.64.0.0/10 is Tailscale's.
_CANDIDATES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")


class Route(msgspec.Struct, frozen=True):
    """A network that the host has a way to, whatever table says so."""

    network: IPv4Network
    device: str

    def __str__(self) -> str:
        return f"{self.network} ({self.device})" if self.device else str(self.network)


class Choice(msgspec.Struct, frozen=True):
    """A network for the guests. Of each of `shadowed`, which is wider, the host loses that part."""

    subnet: IPv4Network
    shadowed: tuple[Route, ...] = ()


class _Hop(msgspec.Struct):
    dev: str = ""


class _Entry(msgspec.Struct):
    dst: str
    dev: str = ""
    nexthops: tuple[_Hop, ...] = ()


async def read_routes() -> list[Route]:
    """The host's IPv4 routes of all tables. Raises what `runner.run` raises."""
    shown = await runner.run(["ip", "-4", "-json", "route", "show", "table", "all"])
    return parse_routes(shown.stdout)


def parse_routes(text: bytes) -> list[Route]:
    """The routes that ip(8) printed as JSON, but for default routes and multicast.

    Raises PermanentError(tool_failed) when that is not what it is.
    """
    try:
        entries = msgspec.json.decode(text or b"[]", type=list[_Entry])
        return list(_routes(entries))
    except (msgspec.DecodeError, ValueError) as error:
        raise PermanentError(
            ErrorCode.TOOL_FAILED, f"ip route printed what is not understood: {error}"
        ) from None


def settle(
    wanted: IPv4Network, current: IPv4Network | None, routes: list[Route], bridge: str
) -> Choice:
    """The guests' network from now on; asked at every start, because routes come and go.

    `current` is what VMs have addresses of, if there are any: it is kept, and a route within it is
    an error. Otherwise the first free of `wanted` and the private networks is taken, of `wanted`'s
    size; when none is, one within wider routes.
    Raises PermanentError(network_collision).
    """
    others = [route for route in routes if route.device != bridge]
    narrow = [route for route in others if route.network.prefixlen >= wanted.prefixlen]
    if current is not None:
        return _keep(current, others)

    subnet = _first_beside(wanted, others) or _first_beside(wanted, narrow)
    if subnet is None:
        raise _collision(wanted, _overlapping(wanted, narrow))

    return Choice(subnet, tuple(_overlapping(subnet, others)))


def _keep(subnet: IPv4Network, routes: list[Route]) -> Choice:
    overlapping = _overlapping(subnet, routes)
    # The longest prefix wins: beside a wider route, the bridge's own is the one that is used.
    narrow = [each for each in overlapping if each.network.prefixlen >= subnet.prefixlen]
    if narrow:
        raise _collision(subnet, narrow)

    return Choice(subnet, tuple(overlapping))


def _first_beside(wanted: IPv4Network, routes: list[Route]) -> IPv4Network | None:
    """`wanted`, or the first private network of its size, that overlaps none of `routes`."""
    if not _overlapping(wanted, routes):
        return wanted

    for text in _CANDIDATES:
        pool = IPv4Network(text)
        number, last = int(pool.network_address), int(pool.broadcast_address)
        while number + wanted.num_addresses - 1 <= last:
            subnet = IPv4Network((number, wanted.prefixlen))
            overlapping = _overlapping(subnet, routes)
            if not overlapping:
                return subnet

            # Past everything that is in the way here, which may be all of the pool.
            end = max(int(route.network.broadcast_address) for route in overlapping)
            number = max(number, end // wanted.num_addresses * wanted.num_addresses)
            number += wanted.num_addresses

    return None


def _overlapping(subnet: IPv4Network, routes: Iterable[Route]) -> list[Route]:
    return [route for route in routes if route.network.overlaps(subnet)]


def _routes(entries: Iterable[_Entry]) -> Iterator[Route]:
    for entry in entries:
        if entry.dst == "default":
            continue

        network = IPv4Network(entry.dst)
        if network.prefixlen >= _WIDEST and not network.subnet_of(_MULTICAST):
            device = entry.dev or next((hop.dev for hop in entry.nexthops), "")
            yield Route(network, device)


def _collision(subnet: IPv4Network, routes: list[Route]) -> PermanentError:
    return PermanentError(
        ErrorCode.NETWORK_COLLISION,
        f"the guests' network {subnet} collides with the host's route to {routes[0]}",
        hint="set another network.subnet in config.toml, or remove the route; see: ip route",
    )
