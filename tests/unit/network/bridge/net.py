"""A host with a bridge, two guests on it, and an internet with cloud metadata, all throw-away.

What is made of the bridge and of the packet filter is made by the helper's own operations. A guest
hangs on a veth pair whose end on the bridge is called and isolated like a tap.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tests.unit.network.bridge.netns import World

from banger.network.bridge.egress import parse_egress
from banger.network.bridge.lan import Lan, Lease, filter_policy, mac_address
from banger.privileged import bridge, nft, ops
from banger.privileged.site import Site

LAN = Lan("br-fc", IPv4Network("10.213.0.0/16"))
SITE = Site(owner_uid=1000, owner_gid=1000)

UPLINK = "203.0.113.2"
INTERNET = "198.51.100.7"
ELSEWHERE = "192.0.2.7"
METADATA = "169.254.169.254"
PORT = 7777

# Seconds. An answer that is to come may take long; one that is not to come is not waited for long.
_PATIENCE, _GLANCE = 5.0, 0.15


@dataclass
class Guest:
    """A machine behind `tap`."""

    world: World
    tap: str
    address: str

    @property
    def mac(self) -> bytes:
        return bytes.fromhex(mac_address(self.address).replace(":", ""))

    def reaches(self, address: str) -> str | None:
        """Connect to the server at `address`; whom it takes us for, or None when nothing comes."""
        return self.world.do(_greeted, address, _PATIENCE)

    def is_cut_off_from(self, address: str) -> bool:
        """Whether connecting to the server at `address` comes to nothing."""
        return self.world.do(_greeted, address, _GLANCE) is None

    def send_frame(self, frame: bytes) -> None:
        """Put `frame` on the wire as it is."""
        self.world.do(_send_frame, frame)


@dataclass
class Net:
    """Everybody. `a` and `b` are guests, of whom the filter knows nothing yet."""

    host: World
    internet: World
    a: Guest
    b: Guest

    def apply(self, a: str, b: str) -> None:
        """Let the guests reach what is said of each, as a user would say it."""
        leases = [
            Lease(guest.tap, guest.address, parse_egress(text))
            for guest, text in ((self.a, a), (self.b, b))
        ]
        self.host.do(nft.apply_policy, SITE, filter_policy(LAN, leases))

    def host_reaches(self, guest: Guest) -> bool:
        return self.host.do(_greeted, guest.address, _PATIENCE) is not None


@contextmanager
def made() -> Iterator[Net]:
    """A network, for the time of a `with`; every machine in it has a server."""
    with ExitStack() as stack:
        host, internet = (stack.enter_context(World(name)) for name in ("host", "internet"))
        host.do(
            bridge.ensure_bridge,
            SITE,
            ops.EnsureBridge(bridge="br-fc", address="10.213.0.1", prefix=16),
        )
        _connect_internet(host, internet)
        guests = []
        for number in (16, 17):
            guest = Guest(
                stack.enter_context(World("guest")), f"tap-fc-{number}", f"10.213.0.{number}"
            )
            _plug_in(host, guest)
            guests.append(guest)

        for world in (host, internet, *(guest.world for guest in guests)):
            stack.enter_context(world.do(_Server))

        yield Net(host, internet, *guests)


def _connect_internet(host: World, internet: World) -> None:
    host.adopt("uplink", internet, "eth0")
    host.sh(f"ip addr add {UPLINK}/24 dev uplink; ip link set uplink up")
    # It knows a way back to the guests, so that what leaks out unmasked is noticed.
    internet.sh(
        "ip addr add 203.0.113.1/24 dev eth0; ip link set eth0 up"
        f"; for each in {INTERNET} {ELSEWHERE} {METADATA}; do ip addr add $each/32 dev lo; done"
        f"; ip route add 10.213.0.0/16 via {UPLINK}"
    )
    host.sh("ip route add default via 203.0.113.1")


def _plug_in(host: World, guest: Guest) -> None:
    host.adopt(guest.tap, guest.world, "eth0")
    host.sh(
        f"ip link set {guest.tap} master br-fc; ip link set {guest.tap} up"
        f"; ip link set {guest.tap} type bridge_slave isolated on"
    )
    guest.world.sh(
        f"ip link set eth0 address {mac_address(guest.address)}; ip link set eth0 up"
        f"; ip addr add {guest.address}/16 dev eth0; ip route add default via 10.213.0.1"
    )


class _Server:
    """Tells every client by which address it came, on all addresses of the world it is made in."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("0.0.0.0", PORT))
        self._listener6 = socket.create_server(("::", PORT), family=socket.AF_INET6)

    def __enter__(self) -> None:
        for listener in (self._listener, self._listener6):
            threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        for listener in (self._listener, self._listener6):
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    @staticmethod
    def _serve(listener: socket.socket) -> None:
        while True:
            try:
                client, address = listener.accept()
            except OSError:
                return
            with client:
                client.sendall(address[0].encode())


def _greeted(address: str, timeout: float) -> str | None:
    try:
        with socket.create_connection((address, PORT), timeout=timeout) as client:
            return client.recv(64).decode()
    except OSError:
        return None


def _send_frame(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(frame)


def ethernet(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + struct.pack("!H", kind) + payload


def arp_reply(mac: bytes, address: str, to_mac: bytes, to_address: str) -> bytes:
    """`address` is at `mac` (RFC 826)."""
    fixed = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    sender = mac + IPv4Address(address).packed
    return fixed + sender + to_mac + IPv4Address(to_address).packed


def datagram(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram (RFC 791, RFC 768; no UDP checksum)."""
    udp = struct.pack("!4H", 9999, port, 8 + len(payload), 0) + payload
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", checksum) + header[12:] + udp
