"""Names and addresses: only of the patterns that banger itself gives."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.privileged.outcome import fault_of

from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import addresses, names

GATES: dict[str, tuple[Callable[[str], str], str, int]] = {
    "bridge": (names.bridge_name, r"br-fc(-[a-z0-9]+)?", 15),
    "tap": (names.tap_name, r"tap-fc-[a-z0-9]+", 15),
    "snapshot": (names.snapshot_name, r"fc-rootfs-[a-z0-9-]+", 74),
    "jail": (names.jail_id, r"[a-z0-9-]+", 64),
    "file": (names.file_name, r"[a-z0-9][a-z0-9._-]*", 64),
    "mac": (names.mac_address, r"[0-9a-f:]{17}", 17),
}
HOSTILE = [
    "", ".", "..", "a/b", "br-fc\n", "br-fc-", "br-fc ", "br-fcx", "BR-FC", "eth0", "lo", "br-fc-é",
    "tap-fc-", "tap-fc-123456789", "tap-fc-1 master eth0", "tap-fc-1\nlink del eth0", "-batch",
    "fc-rootfs-", "fc-rootfs-a.base", "fc-rootfs-a/../b", "fc-rootfs--a-", "fc-rootfs-" + "a" * 65,
    "--id", "-a", "a-", "a" * 65, "A", "a\x00", "..a", "a..", "%n",
    "01:00:5e:00:00:01", "00:1b:21:00:00:01", "02:FC:00:00:00:01", "2:fc:0:0:0:1",
    "\u06602:fc:00:00:00:01",
]  # fmt: skip
FINE = {
    "bridge": ["br-fc", "br-fc-a", "br-fc-123456789"],
    "tap": ["tap-fc-1", "tap-fc-0123abcd"],
    "snapshot": ["fc-rootfs-a", "fc-rootfs-3f-2", "fc-rootfs-" + "a" * 64],
    "jail": ["a", "3f2b-1", "a" * 64],
    "file": ["kernel", "initrd.img", "mem_0", "a" * 64],
    "mac": ["02:fc:00:00:00:01", "fe:ff:ff:ff:ff:fe"],
}


@pytest.mark.parametrize("kind", GATES)
@given(
    st.one_of(
        st.sampled_from(HOSTILE),
        st.text(max_size=80),
        st.from_regex(r"(br-fc-|tap-fc-|fc-rootfs-)?[a-z0-9.:-]{0,70}\n?", fullmatch=True),
    )
)
def test_what_a_gate_lets_through_has_its_pattern(kind: str, name: str) -> None:
    gate, pattern, longest = GATES[kind]
    fault = fault_of(lambda: gate(name))

    assert fault in (None, FaultCode.REFUSED)
    if fault is None:
        assert gate(name) == name
        assert re.fullmatch(pattern, name, re.ASCII)
        assert len(name.encode()) <= longest


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_name_passes_the_gate_of_what_it_imitates(name: str) -> None:
    for kind, (gate, _, _) in GATES.items():
        if (kind, name) in {("jail", "eth0"), ("jail", "lo"), ("file", "eth0"), ("file", "lo")}:
            continue

        # Harmless as a component of a path, which is all that a jail's id or a file's name is.
        if kind in ("jail", "file") and re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name):
            continue

        with pytest.raises(Fault):
            gate(name)


@pytest.mark.parametrize(("kind", "name"), [(kind, n) for kind in FINE for n in FINE[kind]])
def test_banger_own_names_pass(kind: str, name: str) -> None:
    assert GATES[kind][0](name) == name


def test_nothing_is_named_twice() -> None:
    names.distinct(("a", "b"), "tap")
    with pytest.raises(Fault):
        names.distinct(("a", "b", "a"), "tap")


ADDRESSES = st.ip_addresses(v=4)


@given(ADDRESSES, st.integers(-1, 40))
@example(IPv4Address("169.254.0.1"), 8)
@example(IPv4Address("172.16.0.1"), 8)
def test_a_bridge_has_a_private_address_that_a_host_may_have(
    address: IPv4Address, prefix: int
) -> None:
    try:
        interface = addresses.bridge_address(str(address), prefix)
    except Fault:
        return

    assert interface.network.is_private
    assert not interface.is_loopback
    assert not interface.is_link_local
    assert interface.ip not in (
        interface.network.network_address,
        interface.network.broadcast_address,
    )


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("172.16.0.0", 24), ("172.16.0.255", 24), ("172.16.0.1", 31), ("172.16.0.1", 7),
        ("8.8.8.8", 24), ("127.0.0.1", 8), ("169.254.1.1", 16), ("0.0.0.1", 8),
        ("172.16.0.1/24", 24),
        ("172.16.0.01", 24), ("::1", 24), ("", 24), ("172.16.0.1 dev eth0", 24),
    ],
)  # fmt: skip
def test_a_bridge_has_no_other_address(address: str, prefix: int) -> None:
    with pytest.raises(Fault):
        addresses.bridge_address(address, prefix)


@given(ADDRESSES)
def test_a_guest_is_on_its_bridge_and_is_not_the_host(address: IPv4Address) -> None:
    bridge = addresses.bridge_address("172.16.4.1", 22)
    try:
        guest = addresses.guest_address(str(address), bridge)
    except Fault:
        return

    assert guest in list(bridge.network.hosts())
    assert guest != bridge.ip


def test_every_other_address_on_the_bridge_can_be_a_guests() -> None:
    bridge = addresses.bridge_address("172.16.0.1", 24)

    assert addresses.guest_address("172.16.0.254", bridge) == IPv4Address("172.16.0.254")


@pytest.mark.parametrize(
    "network",
    [
        "169.254.169.254/32",
        "169.254.0.0/16",
        "127.0.0.1/32",
        "224.0.0.0/8",
        "10.0.0.1/8",
        "x",
        "::/0",
    ],
)
def test_an_allowlist_has_no_network_that_guests_never_reach(network: str) -> None:
    with pytest.raises(Fault):
        addresses.allowed_network(network)


def test_an_allowlist_may_be_everything_else() -> None:
    assert addresses.allowed_network("0.0.0.0/0") == IPv4Network("0.0.0.0/0")


def test_names_are_resolved_by_this_host_alone() -> None:
    assert addresses.resolver_address("127.0.0.1", 42069, None) == "127.0.0.1:42069"
    assert addresses.resolver_address("172.16.0.1", 53, "172.16.0.1") == "172.16.0.1:53"
    for server, port in (("8.8.8.8", 53), ("172.16.0.2", 53), ("127.0.0.1", 0), ("127.0.0.1#x", 1)):
        with pytest.raises(Fault):
            addresses.resolver_address(server, port, "172.16.0.1")
