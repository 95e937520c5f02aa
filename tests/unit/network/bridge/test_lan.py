"""Addresses, what a guest is told, what it may reach, and whom it asks for names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.network.bridge.egress import Egress, parse_egress, usable_resolvers
from banger.network.bridge.lan import Lan, Lease, filter_policy, mac_address
from banger.network.bridge.resolver import parse_resolv_conf, routing, upstream_resolvers
from banger.privileged.gates.addresses import NEVER, allowed_network

LAN = Lan("br-fc", IPv4Network("10.213.0.0/16"))
ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
NETWORKS = st.builds(
    lambda address, prefix: IPv4Network((int(address), prefix), strict=False),
    ADDRESSES,
    st.integers(0, 32),
)


@given(st.sets(st.integers(0, 255)))
def test_a_picked_address_is_free_and_a_guests(numbers: set[int]) -> None:
    lan = Lan("br-fc", IPv4Network("192.168.7.0/24"))
    taken = {str(lan.subnet[number]) for number in numbers}
    if set(range(16, 255)) <= numbers:
        return

    address = IPv4Address(lan.pick_address(taken))
    assert str(address) not in taken
    assert lan.subnet[16] <= address < lan.subnet.broadcast_address


def test_when_all_addresses_are_taken_the_error_says_so() -> None:
    lan = Lan("br-fc", IPv4Network("192.168.7.0/24"))
    with pytest.raises(BangerError) as refusal:
        lan.pick_address({str(address) for address in lan.subnet})

    assert refusal.value.code is ErrorCode.NETWORK_EXHAUSTED


@given(ADDRESSES, ADDRESSES)
def test_a_mac_address_is_local_to_one_station_and_as_unique_as_the_address(
    one: IPv4Address, other: IPv4Address
) -> None:
    assert int(mac_address(str(one))[:2], 16) & 0b11 == 0b10
    assert (mac_address(str(one)) == mac_address(str(other))) == (one == other)


def test_a_guest_is_told_of_the_resolvers_it_may_reach() -> None:
    resolvers = ["192.0.2.1", "1.1.1.1", "8.8.8.8", "9.9.9.9"]
    guest = LAN.guest("10.213.0.16", Egress("nat"), resolvers)

    assert (guest.gateway, guest.prefix, guest.mac) == ("10.213.0.1", 16, "06:fc:0a:d5:00:10")
    assert guest.dns == ("192.0.2.1", "1.1.1.1", "8.8.8.8")
    assert LAN.guest("10.213.0.16", Egress(), resolvers).dns == ()
    assert usable_resolvers(Egress("allow", ("8.0.0.0/7",)), resolvers) == ("8.8.8.8", "9.9.9.9")


@pytest.mark.parametrize(
    ("text", "egress"),
    [
        ("none", Egress()),
        ("nat", Egress("nat")),
        ("192.0.2.7", Egress("allow", ("192.0.2.7/32",))),
        ("198.51.100.0/24, 192.0.2.0/24", Egress("allow", ("198.51.100.0/24", "192.0.2.0/24"))),
        ("10.0.0.0/8,10.0.0.0/8", Egress("allow", ("10.0.0.0/8",))),
        ("10.0.0.0/8,10.213.0.1", Egress("allow", ("10.0.0.0/8", "10.213.0.1/32"))),
    ],
)
def test_a_policy_as_users_write_it(text: str, egress: Egress) -> None:
    assert parse_egress(text) == egress
    assert parse_egress(str(egress)) == egress


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no IPv4 network"),
        ("all", "'all' is no IPv4 network"),
        ("NAT", "is no IPv4 network"),
        ("192.0.2.1/24", "has host bits set"),
        ("2001:db8::/32", "is no IPv4 network"),
        ("192.0.2.0/24,", "'' is no IPv4 network"),
        ("example.com", "is no IPv4 network"),
        ("127.0.0.1", "no guest ever reaches 127.0.0.1"),
        ("1.1.1.1,169.254.169.254", "no guest ever reaches 169.254.169.254"),
        (",".join(f"10.0.{n}.0/32" for n in range(65)), "at most 64 networks, not 65"),
    ],
)
def test_what_is_no_policy_is_refused_with_an_example(text: str, words: str) -> None:
    with pytest.raises(CallerError) as refusal:
        parse_egress(text)

    assert words in refusal.value.message
    assert "192.0.2.0/24" in str(refusal.value.hint)


@given(st.lists(NETWORKS | ADDRESSES, min_size=1, max_size=20) | st.text(max_size=40))
def test_whatever_is_written_it_is_what_the_helper_takes_or_an_error(
    entries: list[IPv4Network | IPv4Address] | str,
) -> None:
    text = entries if isinstance(entries, str) else ",".join(map(str, entries))
    try:
        egress = parse_egress(text)
    except CallerError:
        return

    networks = {allowed_network(each) for each in egress.allow}
    assert isinstance(entries, str) or networks == {IPv4Network(each) for each in entries}


def test_the_filter_knows_every_guest_by_its_port_mac_and_address() -> None:
    leases = [
        Lease("tap-fc-2", "10.213.0.17", parse_egress("192.0.2.0/24")),
        Lease("tap-fc-1", "10.213.0.16", Egress("nat")),
    ]
    policy = filter_policy(LAN, leases)

    assert policy == filter_policy(LAN, reversed(leases))
    assert (policy.bridge, policy.address, policy.prefix) == ("br-fc", "10.213.0.1", 16)
    assert policy.isolated
    assert [(each.tap, each.mac, each.egress, each.allow) for each in policy.guests] == [
        ("tap-fc-1", "06:fc:0a:d5:00:10", "nat", ()),
        ("tap-fc-2", "06:fc:0a:d5:00:11", "allow", ("192.0.2.0/24",)),
    ]


def test_the_host_asks_the_server_on_the_bridge() -> None:
    request = routing(LAN, 42069)

    assert (request.bridge, request.server, request.port) == ("br-fc", "10.213.0.1", 42069)


def test_guests_ask_the_servers_behind_the_hosts_own_stub(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    real.write_text(
        "# by systemd\nnameserver 192.168.1.1\nnameserver fe80::1%2\nnameserver\n"
        " nameserver 1.1.1.1 \nnameserver 192.168.1.1\nsearch lan\n"
    )

    assert upstream_resolvers([tmp_path / "none", stub, real]) == ("192.168.1.1", "1.1.1.1")
    assert upstream_resolvers([stub]) == ()


@given(st.text())
def test_a_server_is_never_one_that_no_guest_reaches(text: str) -> None:
    for each in parse_resolv_conf(f"nameserver {text}\nnameserver 127.0.0.1\n{text}"):
        assert not any(IPv4Address(each) in network for network in NEVER)
