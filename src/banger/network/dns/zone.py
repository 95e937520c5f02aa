"""What is true about names: `<vm>.vm`, and back from the addresses of the guests' network.

Everything else is refused: this server forwards nothing, so it can be nobody's way out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from banger.network.dns.wire import (
    Class,
    Malformed,
    Query,
    RCode,
    Record,
    Reply,
    Type,
    Unanswerable,
    build,
    encode_name,
    parse,
)

DOMAIN = "vm"

# Nothing is cached: a VM may be deleted and its name or address be another's a second later.
TTL = 0

_ZONE = DOMAIN.encode()
_REVERSE = (b"in-addr", b"arpa")
_REFUSED = Reply(RCode.REFUSED)
# Serial, refresh, retry, expire, and how long "there is none" may be believed (RFC 2308).
_SOA_TIMES = struct.pack("!5I", 1, 3600, 600, 86400, TTL)
_NOBODY = encode_name(b"nobody", b"invalid")


class Names(Protocol):
    """Which running VM has which address; asked anew for every question."""

    def address_of(self, name: str) -> IPv4Address | None: ...

    def name_of(self, address: IPv4Address) -> str | None: ...


class Directory:
    """Names kept in memory; whoever starts and stops VMs keeps them right."""

    def __init__(self) -> None:
        self._addresses: dict[str, IPv4Address] = {}
        self._names: dict[IPv4Address, str] = {}

    def address_of(self, name: str) -> IPv4Address | None:
        return self._addresses.get(name)

    def name_of(self, address: IPv4Address) -> str | None:
        return self._names.get(address)

    def replace(self, addresses: Mapping[str, IPv4Address]) -> None:
        """From now on these names exist, and no others."""
        self._addresses = dict(addresses)
        self._names = {address: name for name, address in addresses.items()}

    def add(self, name: str, address: IPv4Address) -> None:
        """`name` is at `address`, wherever it was, and whoever was there."""
        self.remove(name)
        former = self._names.get(address)
        if former is not None:
            self.remove(former)

        self._addresses[name] = address
        self._names[address] = name

    def remove(self, name: str) -> None:
        """There is no `name` any more; nor need there have been one."""
        address = self._addresses.pop(name, None)
        if address is not None:
            del self._names[address]


class Zone:
    """Answers for `names` in `subnet`: a pure function from packet to packet."""

    def __init__(self, names: Names, subnet: IPv4Network) -> None:
        self._names = names
        self._subnet = subnet
        self._octets = -(-subnet.prefixlen // 8)

    def respond(self, packet: bytes, *, truncate: bool = False) -> bytes | None:
        """What to send back for `packet`, if anything; never raises.

        With `truncate` a proper question is told to come back over TCP.
        """
        try:
            query = parse(packet)
        except Unanswerable:
            return None
        except Malformed as error:
            return error.reply
        if query.edns is not None and query.edns.version != 0:
            return build(query, Reply(RCode.BADVERS))

        reply = Reply(RCode.NOERROR, truncated=True) if truncate else self.answer(query)
        return build(query, reply)

    def answer(self, query: Query) -> Reply:
        """What is true about `query`."""
        if query.cls not in (Class.IN, Class.ANY) or Type.TKEY <= query.type <= Type.MAILA:
            return _REFUSED

        if query.labels[-1:] == (_ZONE,):
            return self._forward(query)

        return self._reverse(query) if query.labels[-2:] == _REVERSE else _REFUSED

    def _forward(self, query: Query) -> Reply:
        *below, _ = query.labels
        if not below:
            return _existing(query, zone=0)

        address = self._names.address_of(_text(below[0])) if len(below) == 1 else None
        if address is None:
            return _missing(query, zone=len(below))

        return _existing(query, zone=1, record=_own(query, Type.A, address.packed))

    def _reverse(self, query: Query) -> Reply:
        numbers = query.labels[:-2]
        above = len(numbers) - self._octets
        if above < 0 or not self._ours(numbers[above:]):
            return _REFUSED

        octets = _octets(numbers)
        if octets is None:
            return _missing(query, zone=above)

        if len(octets) < 4:
            return _existing(query, zone=above)

        name = self._names.name_of(IPv4Address(octets))
        if name is None:
            return _missing(query, zone=above)

        data = encode_name(name.encode(), _ZONE)
        return _existing(query, zone=above, record=_own(query, Type.PTR, data))

    def _ours(self, numbers: Sequence[bytes]) -> bool:
        octets = _octets(numbers)
        if octets is None:
            return False

        return IPv4Address(octets.ljust(4, b"\0")) in self._subnet


def reverse_zones(subnet: IPv4Network) -> list[str]:
    """The in-addr.arpa zones that together are `subnet`, and nothing beyond it."""
    octets = max(1, -(-subnet.prefixlen // 8))
    parts = subnet.subnets(new_prefix=max(subnet.prefixlen, 8 * octets))
    return [
        ".".join([*reversed(str(part.network_address).split(".")[:octets]), "in-addr", "arpa"])
        for part in parts
    ]


def _existing(query: Query, zone: int, record: Record | None = None) -> Reply:
    """For a name that exists and has `record` alone; `zone` is the label its zone begins at."""
    if record is not None and query.type in (record.type, Type.ANY):
        return Reply(RCode.NOERROR, answer=(record,))

    soa = _soa(query, zone)
    if zone == 0 and query.type in (Type.SOA, Type.ANY):
        return Reply(RCode.NOERROR, answer=(soa,))

    return Reply(RCode.NOERROR, authority=(soa,))


def _missing(query: Query, zone: int) -> Reply:
    return Reply(RCode.NXDOMAIN, authority=(_soa(query, zone),))


def _own(query: Query, kind: Type, data: bytes) -> Record:
    return Record(query.pointer(0), kind, TTL, data)


def _soa(query: Query, zone: int) -> Record:
    # RFC 6303 writes the records of zones nobody runs so.
    name = query.pointer(zone)
    return Record(name, Type.SOA, TTL, name + _NOBODY + _SOA_TIMES)


def _octets(numbers: Sequence[bytes]) -> bytes | None:
    """`numbers`, last label first, as an address begins; None when they are not decimal octets."""
    octets = bytearray()
    for label in reversed(numbers):
        if len(label) > 3 or not label.isdigit() or label != b"%d" % int(label):
            return None

        if int(label) > 255:
            return None

        octets.append(int(label))
    return bytes(octets) if len(octets) <= 4 else None


def _text(label: bytes) -> str:
    return label.decode("latin-1")
