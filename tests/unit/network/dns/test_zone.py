"""What is answered: the names of VMs, the way back, and nothing about anything else."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.network.dns.messages import (
    AAAA,
    ANY,
    AXFR,
    DEV,
    NS,
    PTR,
    SOA,
    SUBNET,
    TXT,
    A,
    Answer,
    encoded,
    question,
    taken_apart,
    zone,
)

from banger.network.dns.zone import Directory, Zone, reverse_zones

NOERROR, NXDOMAIN, REFUSED = 0, 3, 5


def ask(name: str, kind: int = A, cls: int = 1, *, of: Zone | None = None) -> Answer:
    return taken_apart((of or zone()).respond(question(name, kind, cls)))


@pytest.mark.parametrize("kind", [A, ANY])
def test_a_vms_name_is_its_address(kind: int) -> None:
    answer = ask("dev.vm", kind)

    assert (answer.code, answer.authoritative) == (NOERROR, True)
    assert answer.counts == (1, 1, 0, 0)
    assert answer.rest.endswith(b"\x00\x04" + DEV.packed)


@pytest.mark.parametrize("name", ["DEV.vm", "dEv.Vm", "dev.VM"])
def test_letters_may_be_of_any_case_and_come_back_as_they_were(name: str) -> None:
    answer = ask(name)

    assert answer.counts == (1, 1, 0, 0)
    assert answer.rest.startswith(encoded(name))
    # The answer's own name points at the question's.
    assert answer.rest[len(encoded(name)) + 4 :].startswith(b"\xc0\x0c")


@pytest.mark.parametrize("kind", [AAAA, TXT, NS, SOA, PTR, 65, 65280])
def test_what_a_vm_does_not_have_is_no_data_rather_than_no_name(kind: int) -> None:
    answer = ask("dev.vm", kind)

    assert (answer.code, answer.authoritative) == (NOERROR, True)
    assert answer.counts == (1, 0, 1, 0)


@pytest.mark.parametrize("name", ["gone.vm", "www.dev.vm", "dev.dev.vm", "d\xe9v.vm", "a.b.c.d.vm"])
def test_a_name_nobody_has_does_not_exist(name: str) -> None:
    answer = ask(name)

    assert (answer.code, answer.authoritative) == (NXDOMAIN, True)
    assert answer.counts == (1, 0, 1, 0)


def test_the_zone_itself_has_nothing_but_its_soa() -> None:
    assert ask("vm", SOA).counts == (1, 1, 0, 0)
    assert (ask("vm", A).code, ask("vm", A).counts) == (NOERROR, (1, 0, 1, 0))


def test_an_address_is_its_vms_name() -> None:
    answer = ask("16.0.213.10.in-addr.arpa", PTR)

    assert answer.counts == (1, 1, 0, 0)
    assert answer.rest.endswith(encoded("dev.vm"))
    assert ask("16.0.213.10.IN-ADDR.ARPA", PTR).counts == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("17.0.213.10.in-addr.arpa", NXDOMAIN),
        ("1.16.0.213.10.in-addr.arpa", NXDOMAIN),
        ("x.0.213.10.in-addr.arpa", NXDOMAIN),
        ("016.0.213.10.in-addr.arpa", NXDOMAIN),
        ("256.0.213.10.in-addr.arpa", NXDOMAIN),
        ("0.213.10.in-addr.arpa", NOERROR),
        ("213.10.in-addr.arpa", NOERROR),
        ("10.in-addr.arpa", REFUSED),
        ("in-addr.arpa", REFUSED),
        ("16.0.214.10.in-addr.arpa", REFUSED),
        ("1.0.0.127.in-addr.arpa", REFUSED),
    ],
)
def test_the_way_back_ends_where_the_guests_network_does(name: str, code: int) -> None:
    assert ask(name, PTR).code == code


@pytest.mark.parametrize("name", ["", "example.com", "vm.example.com", "devvm", "dev.vmm", "arpa"])
def test_everything_else_is_refused(name: str) -> None:
    answer = ask(name)

    assert (answer.code, answer.authoritative) == (REFUSED, False)
    assert answer.counts == (1, 0, 0, 0)


@pytest.mark.parametrize(("kind", "cls"), [(AXFR, 1), (251, 1), (249, 1), (A, 3), (TXT, 3)])
def test_transfers_and_other_classes_are_refused(kind: int, cls: int) -> None:
    assert ask("dev.vm", kind, cls).code == REFUSED


def test_nothing_may_be_remembered() -> None:
    answer = ask("dev.vm")
    ttl_at = len(encoded("dev.vm")) + 4 + 2 + 4

    assert answer.rest[ttl_at : ttl_at + 4] == bytes(4)
    # The last field of the SOA: how long "no such name" holds (RFC 2308).
    assert ask("gone.vm").rest.endswith(bytes(4))


def test_names_come_and_go() -> None:
    names = Directory()
    changing = Zone(names, SUBNET)
    assert ask("web.vm", of=changing).code == NXDOMAIN
    names.add("web", DEV)
    assert ask("web.vm", of=changing).code == NOERROR
    names.add("shop", DEV)
    assert ask("web.vm", of=changing).code == NXDOMAIN
    assert ask("16.0.213.10.in-addr.arpa", PTR, of=changing).rest.endswith(encoded("shop.vm"))
    names.remove("shop")
    names.remove("shop")
    assert ask("shop.vm", of=changing).code == NXDOMAIN
    names.replace({"web": DEV})
    assert (names.address_of("web"), names.name_of(DEV)) == (DEV, "web")


def test_a_name_that_moves_leaves_its_former_address() -> None:
    names = Directory()
    names.add("web", DEV)
    names.add("web", DEV + 1)

    assert names.name_of(DEV) is None
    assert names.address_of("web") == DEV + 1


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.213.0.0/16", ["213.10.in-addr.arpa"]),
        ("192.168.7.0/24", ["7.168.192.in-addr.arpa"]),
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("172.16.4.0/23", ["4.16.172.in-addr.arpa", "5.16.172.in-addr.arpa"]),
        ("172.16.0.0/14", [f"{n}.172.in-addr.arpa" for n in (16, 17, 18, 19)]),
    ],
)
def test_the_reverse_zones_are_the_network_and_no_more(subnet: str, zones: list[str]) -> None:
    assert reverse_zones(IPv4Network(subnet)) == zones


@given(st.integers(8, 24), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_an_address_has_a_way_back_if_and_only_if_it_is_ours(
    prefix: int, base: int, number: int
) -> None:
    subnet = IPv4Network((base, prefix), strict=False)
    near = IPv4Address(int(subnet.network_address) ^ (number >> prefix - 1))
    names = Directory()
    names.add("dev", near)
    answer = ask(near.reverse_pointer, PTR, of=Zone(names, subnet))

    assert answer.code == (NOERROR if near in subnet else REFUSED)
    ours = any(near.reverse_pointer.endswith("." + each) for each in reverse_zones(subnet))
    assert ours == (near in subnet)
