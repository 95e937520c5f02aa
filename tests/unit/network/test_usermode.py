"""Guest addresses, MAC addresses, host ports, and networks that collide with the host's."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import ErrorCode, PermanentError
from banger.network.usermode import (
    UserNetwork,
    colliding_routes,
    mac_address,
)

SUBNET = IPv4Network("10.213.0.0/16")
HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


@given(st.sets(st.integers(0, 255), max_size=256))
def test_a_picked_address_is_free_and_usable(taken_numbers: set[int]) -> None:
    subnet = IPv4Network("192.168.7.0/24")
    network = UserNetwork(subnet)
    taken = {str(subnet[number]) for number in taken_numbers}
    if set(range(16, 255)) <= taken_numbers:
        return
    address = network.pick_address(taken)
    assert IPv4Address(address) in subnet
    assert address not in taken
    assert address not in {
        network.gateway,
        network.dns,
        str(subnet.network_address),
        str(subnet.broadcast_address),
    }


def test_every_address_is_given_once_and_then_the_error_says_so() -> None:
    network = UserNetwork(IPv4Network("192.168.7.0/24"))
    taken: set[str] = set()
    for _ in range(239):
        taken.add(network.pick_address(taken))
    assert len(taken) == 239
    with pytest.raises(PermanentError) as refusal:
        network.pick_address(taken)
    assert refusal.value.code is ErrorCode.NETWORK_EXHAUSTED


def test_gateway_and_dns_are_where_qemu_puts_them() -> None:
    network = UserNetwork(SUBNET)
    assert (network.cidr, network.gateway, network.dns) == (
        "10.213.0.0/16",
        "10.213.0.2",
        "10.213.0.3",
    )


def test_a_guest_with_nat_asks_qemu_for_names() -> None:
    guest = UserNetwork(SUBNET).guest("10.213.0.16", "52:54:00:00:00:01", nat=True)
    assert (guest.prefix, guest.gateway, guest.dns) == (16, "10.213.0.2", ("10.213.0.3",))


def test_a_guest_without_nat_has_no_server_to_wait_for() -> None:
    assert UserNetwork(SUBNET).guest("10.213.0.16", "52:54:00:00:00:01", nat=False).dns == ()


@given(st.from_regex(r"\A[0-9a-f]{12}\Z"))
def test_a_mac_address_is_unicast_local_and_stable(vm_id: str) -> None:
    mac = mac_address(vm_id)
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac)
    first = int(mac[:2], 16)
    assert first & 0b11 == 0b10
    assert mac == mac_address(vm_id)


def routes(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "route"
    path.write_text(HEADER + "".join(f"{line}\t0\t0\t0\n" for line in lines))
    return path


def test_a_route_inside_the_guests_network_collides(tmp_path: Path) -> None:
    table = routes(
        tmp_path,
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000",
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF",
        "tun0\t0000D50A\t00000000\t0001\t0\t0\t0\t0000FFFF",
    )
    assert colliding_routes(SUBNET, table) == ["10.213.0.0/16 (tun0)"]


def test_a_route_around_the_guests_network_collides(tmp_path: Path) -> None:
    table = routes(tmp_path, "wg0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF")
    assert colliding_routes(SUBNET, table) == ["10.0.0.0/8 (wg0)"]


def test_a_default_route_collides_with_nothing(tmp_path: Path) -> None:
    table = routes(tmp_path, "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000")
    assert colliding_routes(SUBNET, table) == []


def test_this_hosts_own_routes_can_be_read() -> None:
    assert isinstance(colliding_routes(SUBNET), list)
