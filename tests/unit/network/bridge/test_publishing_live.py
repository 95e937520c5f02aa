"""Guests' ports published on the host, with real packets."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from tests.unit.network.bridge.net import LAN, PORT, UPLINK, Guest, Net, datagram, ethernet, made
from tests.unit.network.bridge.netns import World, possible

from banger.network.bridge.egress import Egress, parse_egress
from banger.network.bridge.lan import Lease, filter_policy
from banger.network.ports import hold
from banger.privileged import nft
from banger.privileged.faults import Fault
from banger.privileged.ops import ApplyPolicy, Protocol, Publication
from banger.privileged.site import Site

pytestmark = pytest.mark.skipif(
    shutil.which("nft") is None or not possible(), reason="needs root and nftables"
)

OWNED = Site(owner_uid=0, owner_gid=0)
LOOPBACK = "127.0.0.1"
GATEWAY = "10.213.0.1"


@pytest.fixture
def net() -> Iterator[Net]:
    with made() as everybody:
        yield everybody


class Published:
    """The filter, with these ports of `a` published, which this process holds."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._held = ExitStack()

    def __call__(self, *published: Publication, egress: str = "none") -> None:
        self._held.close()
        for one in published:
            held = self._net.host.do(hold, one.address, one.port, one.protocol)
            self._held.enter_context(closing(held))

        self._net.host.do(nft.apply_policy, OWNED, policy(self._net, published, egress))

    def close(self) -> None:
        self._held.close()


def policy(net: Net, published: tuple[Publication, ...], egress: str = "none") -> ApplyPolicy:
    return filter_policy(
        LAN,
        [
            Lease(net.a.tap, net.a.address, parse_egress(egress), published),
            Lease(net.b.tap, net.b.address, Egress("nat")),
        ],
    )


@pytest.fixture
def publish(net: Net) -> Iterator[Published]:
    with closing(Published(net)) as published:
        yield published


def tcp(address: str, port: int = 8080, guest_port: int = PORT) -> Publication:
    return Publication(address=address, port=port, guest_port=guest_port)


def udp(address: str) -> Publication:
    return Publication(address=address, port=5300, guest_port=5353, protocol=Protocol.UDP)


def open_udp(patience: float = 3.0) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(patience)
    return opened


def send_frame(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(frame)


def calls(who: World, address: str, port: int = 8080, patience: float = 3.0) -> str | None:
    """Whom the guest takes `who` for that calls it at `address`; None when nothing comes."""

    def call() -> str | None:
        try:
            with socket.create_connection((address, port), timeout=patience) as client:
                return client.recv(64).decode() or None
        except OSError:
            return None

    return who.do(call)


def setting(net: Net, path: str) -> str:
    return net.host.sh(f"cat /proc/sys/net/ipv4/{path}").strip()


def test_on_loopback_the_host_alone_is_served(net: Net, publish: Published) -> None:
    publish(tcp(LOOPBACK))
    assert calls(net.host, LOOPBACK) == GATEWAY
    assert calls(net.internet, UPLINK, patience=0.3) is None
    assert calls(net.host, UPLINK, patience=0.3) is None


@pytest.mark.parametrize(("address", "heard"), [(LOOPBACK, False), (UPLINK, True)])
def test_a_neighbour_that_writes_to_loopback_is_not_heard(
    net: Net, publish: Published, address: str, heard: bool
) -> None:
    publish(udp(LOOPBACK), udp(UPLINK))
    mac = bytes.fromhex(net.host.sh("cat /sys/class/net/uplink/address").strip().replace(":", ""))
    packet = datagram("203.0.113.1", address, 5300, b"question")
    with closing(net.a.world.do(open_udp, 0.5)) as guest:
        guest.bind(("0.0.0.0", 5353))
        net.internet.do(send_frame, ethernet(mac, bytes(6), 0x0800, packet))
        try:
            assert guest.recv(64) == b"question"
        except TimeoutError:
            assert not heard
        else:
            assert heard


def test_on_an_address_others_are_served_and_seen_as_who_they_are(
    net: Net, publish: Published
) -> None:
    publish(tcp(UPLINK))
    assert calls(net.internet, UPLINK) == "203.0.113.1"
    assert calls(net.host, UPLINK) == UPLINK
    assert calls(net.host, LOOPBACK, patience=0.3) is None


def test_on_all_addresses_everybody_is_served(net: Net, publish: Published) -> None:
    publish(tcp("0.0.0.0"))
    assert calls(net.internet, UPLINK) == "203.0.113.1"
    assert calls(net.host, LOOPBACK) == GATEWAY
    assert calls(net.host, GATEWAY) is not None


@pytest.mark.parametrize("address", [UPLINK, GATEWAY, LOOPBACK, "10.213.0.16"])
def test_guests_are_not(net: Net, publish: Published, address: str) -> None:
    publish(tcp("0.0.0.0"))
    assert calls(net.b.world, address, patience=0.3) is None


def test_publishing_opens_nothing_else(net: Net, publish: Published) -> None:
    publish(tcp(UPLINK))
    assert calls(net.internet, net.a.address, PORT, patience=0.3) is None, "past the publication"
    assert calls(net.internet, UPLINK, PORT, patience=0.3) == "203.0.113.1", "the host's own"
    assert net.a.is_cut_off_from("198.51.100.7")


def test_a_guest_with_egress_keeps_it(net: Net, publish: Published) -> None:
    publish(tcp(UPLINK), egress="nat")
    assert net.a.reaches("198.51.100.7") == UPLINK
    assert calls(net.internet, UPLINK) == "203.0.113.1"


def test_a_publication_that_is_withdrawn_ends_connections(net: Net, publish: Published) -> None:
    with closing(_Echo(net.a)) as echo:
        publish(tcp(UPLINK, guest_port=echo.port))
        client = net.internet.do(socket.create_connection, (UPLINK, 8080), 3.0)
        with client:
            assert talk(client) == b"x"
            publish(tcp(UPLINK, guest_port=echo.port))
            assert talk(client) == b"x", "applied again"
            publish()
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                talk(client)


def test_the_kernel_lets_loopback_out_for_as_long_as_it_must(net: Net, publish: Published) -> None:
    place = "conf/br-fc/route_localnet"
    assert setting(net, place) == "0"
    publish(tcp(UPLINK))
    assert setting(net, place) == "0"
    publish(tcp(LOOPBACK))
    assert setting(net, place) == "1"
    publish()
    assert setting(net, place) == "0"


def test_a_guest_reaches_nothing_on_the_hosts_loopback_meanwhile(
    net: Net, publish: Published
) -> None:
    publish(tcp(LOOPBACK), egress="nat")
    assert calls(net.host, LOOPBACK, PORT) == LOOPBACK, "there is a server"
    net.a.world.sh(
        "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via 10.213.0.1"
        "; echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"
    )
    assert calls(net.a.world, LOOPBACK, PORT, patience=0.5) is None


def test_datagrams_are_led_as_well(net: Net, publish: Published) -> None:
    with net.a.world.do(open_udp) as guest, net.host.do(open_udp) as client:
        guest.bind(("0.0.0.0", 5353))
        publish(udp(LOOPBACK))
        client.sendto(b"question", (LOOPBACK, 5300))
        asked, whom = guest.recvfrom(64)
        assert asked == b"question"
        guest.sendto(b"answer", whom)
        assert client.recvfrom(64) == (b"answer", (LOOPBACK, 5300))


def test_a_port_that_the_owner_does_not_hold_is_refused(net: Net) -> None:
    with pytest.raises(Fault, match=r"does not listen on tcp 127\.0\.0\.1:8080"):
        net.host.do(nft.apply_policy, OWNED, policy(net, (tcp(LOOPBACK),)))

    with net.host.do(hold, LOOPBACK, 8080, "tcp"):
        net.host.do(nft.apply_policy, OWNED, policy(net, (tcp(LOOPBACK),)))
        stranger = Site(owner_uid=1000, owner_gid=1000)
        with pytest.raises(Fault, match="does not listen"):
            net.host.do(nft.apply_policy, stranger, policy(net, (tcp(LOOPBACK),)))

        with pytest.raises(Fault, match="does not listen"):
            net.host.do(nft.apply_policy, OWNED, policy(net, (tcp("0.0.0.0"),)))

        with pytest.raises(Fault, match="twice"):
            net.host.do(nft.apply_policy, OWNED, policy(net, (tcp(LOOPBACK), tcp(LOOPBACK))))


def talk(client: socket.socket) -> bytes:
    client.sendall(b"x")
    return client.recv(1)


class _Echo:
    """One connection's echo in a guest."""

    def __init__(self, guest: Guest) -> None:
        self._listener = guest.world.do(socket.create_server, ("0.0.0.0", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            while said := client.recv(64):
                client.sendall(said)
