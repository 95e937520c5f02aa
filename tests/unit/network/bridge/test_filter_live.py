"""The packet filter against guests that are root and mean harm, with real packets.

`tests/unit/privileged` shows that the operations do what they say; here guests try to get round.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import Self

import pytest
from tests.unit.network.bridge.net import (
    ELSEWHERE,
    INTERNET,
    METADATA,
    SITE,
    UPLINK,
    Guest,
    Net,
    arp_reply,
    datagram,
    ethernet,
    made,
)
from tests.unit.network.bridge.netns import World, possible

from banger.privileged import nft, ops

pytestmark = pytest.mark.skipif(
    shutil.which("nft") is None or not possible(), reason="needs root and nftables"
)

needs_iptables = pytest.mark.skipif(
    shutil.which("iptables-nft") is None, reason="iptables is not installed"
)

GATEWAY = "10.213.0.1"
BROADCAST = b"\xff" * 6
IPV4, ARP, VLAN = 0x0800, 0x0806, 0x8100
SERVICE = 7778


@pytest.fixture(scope="module")
def shared() -> Iterator[Net]:
    """For tests that set a policy and nothing else."""
    with made() as everybody:
        yield everybody


@pytest.fixture
def net() -> Iterator[Net]:
    """For tests that change machines, or may spoil what a bridge has learnt."""
    with made() as everybody:
        yield everybody


def gateway_mac(net: Net) -> bytes:
    return bytes.fromhex(net.host.sh("cat /sys/class/net/br-fc/address").strip().replace(":", ""))


class Listener:
    """A UDP service of `world`; what it hears."""

    def __init__(self, world: World, address: str = "0.0.0.0") -> None:
        self._socket = world.do(self._open, address)

    @staticmethod
    def _open(address: str) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((address, SERVICE))
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hears(self) -> bytes:
        self._socket.settimeout(5.0)
        return self._socket.recv(64)

    def hears_nothing(self) -> bool:
        self._socket.settimeout(0.2)
        try:
            return not self._socket.recv(64)
        except TimeoutError:
            return True


def test_the_network_carries_what_the_filter_does_not_forbid(net: Net) -> None:
    """Without a filter everything below is possible: the other tests can fail."""
    net.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; ip link set br-fc up")
    net.host.sh("for tap in 16 17; do ip link set tap-fc-$tap type bridge_slave isolated off; done")

    assert net.a.reaches(INTERNET) == net.a.address, "unmasked"
    assert net.a.reaches(METADATA)
    assert net.a.reaches(GATEWAY)
    assert net.a.reaches(net.b.address)


@pytest.mark.parametrize("through_iptables", [0, 1])
def test_each_guest_reaches_what_is_said_of_it(shared: Net, through_iptables: int) -> None:
    # Docker and Kubernetes turn this on, and packets on bridges then pass IP's hooks as well.
    shared.host.sh(f"echo {through_iptables} > /proc/sys/net/bridge/bridge-nf-call-iptables")
    shared.apply(a="nat", b="none")

    assert shared.a.reaches(INTERNET) == UPLINK
    assert shared.b.is_cut_off_from(INTERNET)
    for guest, neighbour in ((shared.a, shared.b), (shared.b, shared.a)):
        assert guest.is_cut_off_from(METADATA)
        assert guest.is_cut_off_from(GATEWAY), "a service of the host's"
        assert guest.is_cut_off_from(UPLINK), "the same by its other address"
        assert guest.is_cut_off_from(neighbour.address)
        assert shared.host_reaches(guest)


def test_an_allowlist_is_all_there_is(shared: Net) -> None:
    shared.apply(a="198.51.100.0/24", b="0.0.0.0/0")

    assert shared.a.reaches(INTERNET) == UPLINK
    assert shared.a.is_cut_off_from(ELSEWHERE)
    assert shared.b.reaches(ELSEWHERE) == UPLINK
    assert shared.b.is_cut_off_from(METADATA)
    assert shared.b.is_cut_off_from(shared.a.address)


def test_everything_does_not_mean_the_host(shared: Net) -> None:
    shared.apply(a="0.0.0.0/0", b="0.0.0.0/1,128.0.0.0/1")

    for guest in (shared.a, shared.b):
        assert guest.reaches(INTERNET) == UPLINK
        assert guest.is_cut_off_from(GATEWAY)
        assert guest.is_cut_off_from(UPLINK)


def test_the_host_is_reached_when_it_is_named(shared: Net) -> None:
    shared.apply(a=f"10.0.0.0/8,{GATEWAY}", b="10.0.0.0/8")

    assert shared.a.reaches(GATEWAY) == shared.a.address
    assert shared.a.is_cut_off_from(UPLINK)
    assert shared.b.is_cut_off_from(GATEWAY)


def test_a_neighbour_is_not_reached_through_the_host_either(net: Net) -> None:
    net.apply(a="nat", b="nat")
    net.a.world.sh(f"ip route add {net.b.address}/32 via {GATEWAY}")

    assert net.a.is_cut_off_from(net.b.address)


def test_the_hosts_loopback_is_out_of_reach_even_when_it_is_routed(net: Net) -> None:
    net.host.sh("echo 1 > /proc/sys/net/ipv4/conf/br-fc/route_localnet")
    packet = datagram(net.a.address, "127.0.0.1", SERVICE, b"hello")
    frame = ethernet(gateway_mac(net), net.a.mac, IPV4, packet)
    with Listener(net.host, "127.0.0.1") as service:
        net.a.send_frame(frame)
        assert service.hears() == b"hello", "without the filter it would be"
        net.apply(a="0.0.0.0/0", b="none")
        net.a.send_frame(frame)
        assert service.hears_nothing()


def test_ipv6_is_no_way_out(net: Net) -> None:
    net.host.sh(
        "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        "; echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    )
    net.host.sh(
        "ip -6 addr add fd00::1/64 dev br-fc nodad; ip -6 addr add fd01::1/64 dev uplink nodad"
    )
    net.internet.sh("ip -6 addr add fd01::2/64 dev eth0 nodad; ip -6 route add default via fd01::1")
    net.a.world.sh("ip -6 addr add fd00::16/64 dev eth0 nodad; ip -6 route add default via fd00::1")
    assert net.a.reaches("fd01::2"), "without the filter it would be"
    net.apply(a="nat", b="nat")
    for address in ("fd00::1", "fd01::2"):
        assert net.a.is_cut_off_from(address)


def test_a_neighbours_address_gives_nothing(net: Net) -> None:
    net.apply(a="none", b="nat")
    net.a.world.sh(
        f"ip addr del {net.a.address}/16 dev eth0; ip addr add {net.b.address}/16 dev eth0"
        f"; ip route add default via {GATEWAY}"
    )

    assert net.a.is_cut_off_from(INTERNET)


def test_a_neighbours_address_and_mac_give_nothing_and_take_nothing(net: Net) -> None:
    net.apply(a="none", b="nat")
    impersonate(net.a, net.b)

    assert net.a.is_cut_off_from(INTERNET)
    assert net.b.reaches(INTERNET) == UPLINK
    assert net.host_reaches(net.b)


def test_what_the_host_has_for_a_guest_cannot_be_drawn_to_another_by_arp(net: Net) -> None:
    net.apply(a="none", b="none")
    assert net.host_reaches(net.b)
    lie = arp_reply(net.a.mac, net.b.address, gateway_mac(net), GATEWAY)
    net.a.send_frame(ethernet(gateway_mac(net), net.a.mac, ARP, lie))

    assert net.host_reaches(net.b)
    assert neighbour(net, net.b) == net.b.mac


def test_what_the_host_has_for_a_guest_cannot_be_drawn_to_another_by_its_mac(net: Net) -> None:
    """A bridge learns from every frame's source, whatever is in it."""
    net.apply(a="none", b="none")
    assert net.host_reaches(net.b)
    truth = arp_reply(net.a.mac, net.a.address, gateway_mac(net), GATEWAY)
    for kind, payload in (
        (ARP, truth),
        (IPV4, datagram(net.a.address, GATEWAY, SERVICE, b"")),
        (0x88CC, b"\0" * 46),
    ):
        net.a.send_frame(ethernet(gateway_mac(net), net.b.mac, kind, payload))
        learnt = net.host.sh(f"bridge fdb show br br-fc | grep {net.b.mac.hex(':')} || true")
        assert net.a.tap not in learnt, f"{kind:#06x}"

    assert net.host_reaches(net.b)


def test_the_hosts_own_mac_cannot_be_taken(net: Net) -> None:
    net.apply(a="none", b="nat")
    truth = arp_reply(net.a.mac, net.a.address, BROADCAST, GATEWAY)
    net.a.send_frame(ethernet(BROADCAST, gateway_mac(net), ARP, truth))

    assert net.b.reaches(INTERNET) == UPLINK


def test_a_tag_does_not_hide_what_is_in_a_frame(shared: Net) -> None:
    shared.apply(a="none", b="nat")
    packet = datagram(shared.b.address, INTERNET, SERVICE, b"hidden")
    tagged = (1).to_bytes(2, "big") + IPV4.to_bytes(2, "big") + packet
    priority = (0).to_bytes(2, "big") + IPV4.to_bytes(2, "big") + packet
    with Listener(shared.internet) as service:
        for payload in (tagged, priority):
            shared.a.send_frame(ethernet(gateway_mac(shared), shared.a.mac, VLAN, payload))
            assert service.hears_nothing()


def test_a_guest_nobody_leased_says_nothing(shared: Net) -> None:
    policy = ops.ApplyPolicy(bridge="br-fc", address=GATEWAY, prefix=16)
    shared.host.do(nft.apply_policy, SITE, policy)

    assert shared.a.is_cut_off_from(INTERNET)


def test_a_withdrawn_permission_ends_what_is_open(shared: Net) -> None:
    with Listener(shared.internet) as service:
        shared.apply(a="nat", b="none")
        talking = shared.a.world.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with talking:
            talking.sendto(b"one", (INTERNET, SERVICE))
            assert service.hears() == b"one"
            shared.apply(a="none", b="none")
            talking.sendto(b"two", (INTERNET, SERVICE))
            assert service.hears_nothing()
            shared.apply(a="nat", b="none")
            talking.sendto(b"three", (INTERNET, SERVICE))
            assert service.hears() == b"three"


def test_replacing_the_filter_loses_no_packet_of_an_open_connection(shared: Net) -> None:
    shared.apply(a="nat", b="none")
    with Listener(shared.internet) as service:
        talking = shared.a.world.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with talking:
            for number in range(30):
                shared.apply(a="nat", b="nat" if number % 2 else "none")
                talking.sendto(b"%d" % number, (INTERNET, SERVICE))
                assert service.hears() == b"%d" % number


# As dockerd sets it up when it turned IP forwarding on itself (Docker 28, iptables).
DOCKER = """
iptables -P FORWARD DROP
iptables -N DOCKER-USER
iptables -N DOCKER-FORWARD
iptables -A DOCKER-USER -j RETURN
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -j DOCKER-FORWARD
iptables -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
"""


@needs_iptables
def test_beside_docker_guests_reach_what_they_may_and_no_more(net: Net) -> None:
    net.host.sh(DOCKER)
    net.apply(a="nat", b="none")

    assert net.a.reaches(INTERNET) == UPLINK
    assert net.b.is_cut_off_from(INTERNET)
    assert net.a.is_cut_off_from(METADATA)
    assert net.a.is_cut_off_from(net.b.address)


@needs_iptables
def test_docker_can_still_read_and_change_its_rules(net: Net) -> None:
    """iptables refuses a table in which it finds what it could not have said itself."""
    net.host.sh(DOCKER)
    before = net.host.sh("iptables-save -t filter | grep -v '^#'")
    net.apply(a="nat", b="none")

    assert "br-fc" in net.host.sh("iptables -S DOCKER-USER")
    net.host.sh("iptables -I DOCKER-USER -i eth9 -j DROP; iptables -D DOCKER-USER -i eth9 -j DROP")
    net.host.do(nft.remove_policy, SITE, ops.RemovePolicy())
    assert net.host.sh("iptables-save -t filter | grep -v '^#'") == before


@needs_iptables
def test_a_forward_chain_that_drops_without_docker_is_joined_too(net: Net) -> None:
    net.host.sh("iptables -P FORWARD DROP")
    net.apply(a="nat", b="none")

    assert net.a.reaches(INTERNET) == UPLINK
    assert "br-fc" in net.host.sh("iptables -S FORWARD")


def test_an_administrators_own_nftables_have_the_last_word(net: Net) -> None:
    """A packet passes every chain of a hook: no priority of ours overrules another's drop."""
    net.host.sh(
        "nft add table inet site"
        "; nft 'add chain inet site forward { type filter hook forward priority 10; policy drop; }'"
    )
    net.apply(a="nat", b="none")

    assert net.a.is_cut_off_from(INTERNET)
    net.host.sh("nft 'add rule inet site forward iifname br-fc accept'")
    net.host.sh("nft 'add rule inet site forward oifname br-fc ct state established accept'")
    assert net.a.reaches(INTERNET) == UPLINK


def impersonate(one: Guest, other: Guest) -> None:
    one.world.sh(
        f"ip link set eth0 down; ip link set eth0 address {other.mac.hex(':')}; ip link set eth0 up"
        f"; ip addr flush dev eth0; ip addr add {other.address}/16 dev eth0"
        f"; ip route add default via {GATEWAY}"
    )


def neighbour(net: Net, guest: Guest) -> bytes:
    """Whom the host takes for `guest`."""
    shown = net.host.sh(f"ip neigh show {guest.address} dev br-fc").split()
    return bytes.fromhex(shown[shown.index("lladdr") + 1].replace(":", ""))
