"""Ports of the host that guests' may be published on: those where the owner listens itself.

So the kernel has said already that this user may have the port, and that nobody else has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

from banger.privileged.faults import refused
from banger.privileged.gates.addresses import published_address
from banger.privileged.ops import Protocol, Publication

# proc_net_tcp: TCP_LISTEN; a UDP socket without a peer is TCP_CLOSE.
_LISTENS = {Protocol.TCP: "0A", Protocol.UDP: "07"}
_HIGHEST = 65535
# Of this thread's network, which is the process's own but in tests.
_SOCKETS = Path("/proc/thread-self/net")


def published(wanted: Iterable[Publication], owner_uid: int) -> None:
    """Refuse publications on what is no port of the owner's. Each may be there only once."""
    seen = set()
    held = {protocol: _held(protocol, owner_uid) for protocol in Protocol}
    for one in wanted:
        place = (published_address(one.address), one.port)
        if not 1 <= one.port <= _HIGHEST or not 1 <= one.guest_port <= _HIGHEST:
            raise refused(f"{one.port} or {one.guest_port} is not a port")

        if place not in held[one.protocol]:
            raise refused(f"the owner does not listen on {one.protocol} {one.address}:{one.port}")

        if (one.protocol, place) in seen:
            raise refused(f"{one.protocol} {one.address}:{one.port} is published twice")

        seen.add((one.protocol, place))


def _held(protocol: Protocol, owner_uid: int) -> set[tuple[IPv4Address, int]]:
    lines = (_SOCKETS / protocol).read_text().splitlines()[1:]
    return {
        _place(fields[1])
        for fields in map(str.split, lines)
        if _is_owners(fields, protocol, owner_uid)
    }


def _is_owners(fields: list[str], protocol: Protocol, owner_uid: int) -> bool:
    # sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid ...
    return fields[3] == _LISTENS[protocol] and int(fields[7]) == owner_uid


def _place(text: str) -> tuple[IPv4Address, int]:
    address, port = text.split(":")
    # The address is a number in the host's byte order.
    return IPv4Address(int(address, 16).to_bytes(4, sys.byteorder)), int(port, 16)
