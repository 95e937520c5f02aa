"""A network for the guests that collides with none of the host's."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import BangerError, ErrorCode
from banger.network.bridge.routes import Route, parse_routes, read_routes, settle

WANTED = IPv4Network("10.213.0.0/16")

# As ip(8) of iproute2 6.1 prints them on a host with Docker, Tailscale and an OpenVPN.
PRINTED = b"""[
{"dst":"100.101.7.2","dev":"tailscale0","table":"52","flags":[]},
{"dst":"100.100.100.100","dev":"tailscale0","table":"52","flags":[]},
{"type":"throw","dst":"127.0.0.0/8","table":"52","flags":[]},
{"dst":"0.0.0.0/1","gateway":"10.8.0.1","dev":"tun0","flags":[]},
{"dst":"default","gateway":"192.168.1.1","dev":"eth0","protocol":"dhcp","metric":100,"flags":[]},
{"dst":"10.8.0.0/24","dev":"tun0","protocol":"kernel","scope":"link","prefsrc":"10.8.0.7"},
{"dst":"128.0.0.0/1","gateway":"10.8.0.1","dev":"tun0","flags":[]},
{"dst":"172.17.0.0/16","dev":"docker0","scope":"link","flags":["linkdown"]},
{"dst":"10.50.0.0/16","protocol":"static","flags":[],
 "nexthops":[{"gateway":"192.168.1.2","dev":"eth0","weight":1,"flags":[]}]},
{"type":"blackhole","dst":"10.99.0.0/16","flags":[]},
{"type":"local","dst":"10.8.0.7","dev":"tun0","table":"local","protocol":"kernel"},
{"type":"multicast","dst":"224.0.0.0/4","dev":"eth0","table":"local"}]"""


def route(network: str, device: str = "tun0") -> Route:
    return Route(IPv4Network(network), device)


def test_all_tables_count_and_default_routes_in_disguise_do_not() -> None:
    assert [str(each) for each in parse_routes(PRINTED)] == [
        "100.101.7.2/32 (tailscale0)",
        "100.100.100.100/32 (tailscale0)",
        "127.0.0.0/8",
        "10.8.0.0/24 (tun0)",
        "172.17.0.0/16 (docker0)",
        "10.50.0.0/16 (eth0)",
        "10.99.0.0/16",
        "10.8.0.7/32 (tun0)",
    ]


def test_no_routes_at_all_are_fine() -> None:
    assert parse_routes(b"") == parse_routes(b"[]") == []


@given(
    st.binary(max_size=80) | st.lists(st.dictionaries(st.just("dst"), st.text())).map(json.dumps)
)
def test_what_is_no_list_of_routes_is_an_error_of_ours(text: bytes | str) -> None:
    try:
        parse_routes(text.encode() if isinstance(text, str) else text)
    except BangerError as error:
        assert error.code is ErrorCode.TOOL_FAILED  # noqa: PT017 - an error or none


async def test_this_hosts_own_routes_can_be_read() -> None:
    assert all(each.network.prefixlen >= 4 for each in await read_routes())


def test_the_configured_network_is_taken_when_it_is_free() -> None:
    assert settle(WANTED, None, parse_routes(PRINTED), "br-fc").subnet == WANTED


def test_the_bridges_own_route_is_no_obstacle() -> None:
    routes = [route("10.213.0.0/16", "br-fc"), route("10.213.0.1/32", "br-fc")]

    assert settle(WANTED, None, routes, "br-fc").subnet == WANTED
    assert settle(WANTED, None, routes, "br-other").subnet != WANTED


@pytest.mark.parametrize(
    ("taken", "chosen"),
    [
        (["10.213.0.0/16"], "10.0.0.0/16"),
        (["10.213.7.0/24", "10.0.0.0/16"], "10.1.0.0/16"),
        (["10.0.0.0/8"], "172.16.0.0/16"),
        (["10.0.0.0/8", "172.16.0.0/12"], "192.168.0.0/16"),
        (["10.0.0.0/8", "172.16.0.0/12", "192.168.1.0/24"], "198.18.0.0/16"),
    ],
)
def test_another_private_network_is_found(taken: list[str], chosen: str) -> None:
    choice = settle(WANTED, None, [route(each) for each in taken], "br-fc")

    assert choice.subnet == IPv4Network(chosen)
    assert choice.shadowed == ()


def test_when_everything_is_routed_a_part_of_a_wide_route_will_do() -> None:
    vpn = [route(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
    choice = settle(WANTED, None, [*vpn, route("198.18.0.0/15")], "br-fc")

    assert choice.subnet == WANTED
    assert choice.shadowed == (vpn[0],)


def test_a_free_part_of_a_wide_route_is_found_beside_narrow_ones() -> None:
    wide = [route(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
    routes = [*wide, route("198.18.0.0/15"), route("10.213.0.0/16"), route("10.0.0.0/16")]

    assert settle(WANTED, None, routes, "br-fc").subnet == IPv4Network("10.1.0.0/16")


def test_when_nothing_is_left_the_error_names_the_route_in_the_way() -> None:
    everything = [route(f"10.{n}.0.0/16") for n in range(256)]
    everything += [route(f"172.{n}.0.0/16") for n in range(16, 32)]
    everything += [route(f"{each}.0.0/16") for each in ("192.168", "198.18", "198.19")]
    with pytest.raises(BangerError) as refusal:
        settle(WANTED, None, everything, "br-fc")

    assert refusal.value.code is ErrorCode.NETWORK_COLLISION
    assert "10.213.0.0/16 (tun0)" in refusal.value.message


def test_a_network_that_vms_have_addresses_of_is_kept_or_an_error() -> None:
    held = IPv4Network("172.20.0.0/16")
    assert settle(WANTED, held, [], "br-fc").subnet == held
    wide = route("172.16.0.0/12")
    assert settle(WANTED, held, [wide], "br-fc").shadowed == (wide,)
    with pytest.raises(BangerError) as refusal:
        settle(WANTED, held, [route("172.20.5.0/24", "wg0")], "br-fc")

    assert refusal.value.code is ErrorCode.NETWORK_COLLISION
    assert "172.20.5.0/24 (wg0)" in refusal.value.message


NETWORKS = st.builds(
    lambda number, prefix: IPv4Network((number, prefix), strict=False),
    st.sampled_from([0x0A000000, 0xAC100000, 0xC0A80000, 0xC6120000]).flatmap(
        lambda base: st.integers(base, base + 2**20)
    ),
    st.integers(8, 32),
)


@given(st.lists(NETWORKS, max_size=30), st.integers(8, 24))
def test_what_is_chosen_takes_no_whole_route_from_the_host(
    taken: list[IPv4Network], prefix: int
) -> None:
    wanted = IPv4Network((0x0AD50000, prefix), strict=False)
    routes = [Route(network, "eth0") for network in taken]
    try:
        choice = settle(wanted, None, routes, "br-fc")
    except BangerError as error:
        assert error.code is ErrorCode.NETWORK_COLLISION  # noqa: PT017 - an error or none
        return

    assert choice.subnet.prefixlen == prefix
    assert choice.subnet.is_private
    overlapping = {network for network in taken if network.overlaps(choice.subnet)}
    assert overlapping == {each.network for each in choice.shadowed}
    assert all(each.prefixlen < prefix for each in overlapping)
