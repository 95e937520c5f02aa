"""What the helper makes of any policy, read as the kernel would: who reaches what.

The reader below knows the few expressions that occur, and fails at any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from banger.network.bridge.egress import Egress, parse_egress
from banger.network.bridge.lan import Lan, Lease, filter_policy
from banger.privileged import nft, ops

LAN = Lan("br-fc", IPv4Network("10.213.0.0/16"))
NEVER = [
    IPv4Network(each)
    for each in ("127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")
]


@dataclass(frozen=True)
class Packet:
    """An IPv4 packet, and what connection tracking says of it."""

    iifname: str
    oifname: str
    saddr: IPv4Address
    daddr: IPv4Address
    state: str = "new"
    direction: str = "original"
    status: str = ""
    l4proto: str = "tcp"
    sport: int = 1024
    dport: int = 1024


class Filter:
    """The table `inet banger` as libnftables-json(5) spells it."""

    def __init__(self, commands: Iterable[dict[str, Any]]) -> None:
        self._sets: dict[str, list[Any]] = {}
        self._rules: dict[str, list[list[dict[str, Any]]]] = {}
        for command in commands:
            ((kind, content),) = command["add"].items()
            if content["family"] != "inet":
                continue

            if kind == "set":
                self._sets[content["name"]] = content.get("elem", [])
            elif kind == "rule":
                self._rules.setdefault(content["chain"], []).append(content["expr"])

    def verdict(self, chain: str, packet: Packet) -> str:
        """`accept`, `drop` or `masquerade`; `accept` when no rule says anything."""
        for expressions in self._rules[chain]:
            *matches, last = expressions
            if all(self._holds(each["match"], packet) for each in matches):
                ((verdict, _),) = last.items()
                assert verdict in {"accept", "drop", "masquerade"}
                return str(verdict)

        return "accept"

    def _holds(self, match: dict[str, Any], packet: Packet) -> bool:
        left, right = self._value(match["left"], packet), match["right"]
        operator: str = match["op"]
        if operator == "in":
            return any(
                bool(left == each) for each in ([right] if right == "dnat" else right["set"])
            )

        if isinstance(right, str) and right.startswith("@"):
            held = any(_contains(each, left) for each in self._sets[right[1:]])
        else:
            held = bool(left == right)
        assert operator in {"==", "!="}
        return held == (operator == "==")

    def _value(self, expression: dict[str, Any], packet: Packet) -> Any:
        ((kind, content),) = expression.items()
        if kind == "concat":
            return tuple(self._value(each, packet) for each in content)

        if kind == "payload":
            assert content["protocol"] in {"ip", "th"}
            return getattr(packet, content["field"])

        assert kind in {"meta", "ct"}
        return getattr(packet, content["key"])


def _contains(element: Any, value: Any) -> bool:
    if isinstance(element, dict) and "concat" in element:
        return all(map(_contains, element["concat"], value))

    if isinstance(element, dict):
        prefix = element["prefix"]
        return value in IPv4Network((prefix["addr"], prefix["len"]))

    return bool(value == (IPv4Address(element) if isinstance(value, IPv4Address) else element))


NUMBERS = st.integers(16, 40)
NETWORKS = st.one_of(
    st.sampled_from(["0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8", "10.213.0.1/32", "10.213.0.0/16"]),
    st.integers(0x01000000, 0xDFFFFFFF).map(lambda number: f"{IPv4Address(number)}/32"),
    st.builds(
        lambda number, prefix: str(IPv4Network((number, prefix), strict=False)),
        st.integers(0x01000000, 0x7EFFFFFF),
        st.integers(8, 32),
    ),
)
EGRESS = st.one_of(
    st.sampled_from([Egress(), Egress("nat")]),
    st.lists(
        NETWORKS.filter(lambda text: not any(IPv4Network(text).subnet_of(n) for n in NEVER)),
        min_size=1,
        max_size=5,
    ).map(lambda networks: parse_egress(",".join(networks))),
)
POLICIES = st.dictionaries(NUMBERS, EGRESS, max_size=6)
DESTINATIONS = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.sampled_from(["169.254.169.254", "127.0.0.1", "10.213.0.1", "10.213.0.20", "1.1.1.1"]).map(
        IPv4Address
    ),
)


# Each is a whole filter, compiled and read.
EXAMPLES = settings(max_examples=50)


def compiled(policy: dict[int, Egress]) -> Filter:
    leases = [Lease(f"tap-fc-{n}", str(LAN.subnet[n]), egress) for n, egress in policy.items()]
    return Filter(nft.ruleset(filter_policy(LAN, leases)))


@EXAMPLES
@given(POLICIES, NUMBERS, DESTINATIONS)
def test_what_is_forwarded_is_what_the_policy_says(
    policy: dict[int, Egress], number: int, destination: IPv4Address
) -> None:
    packet = Packet("br-fc", "uplink", LAN.subnet[number], destination)
    egress = policy.get(number, Egress())
    allowed = egress.mode == "nat" or any(destination in IPv4Network(n) for n in egress.allow)
    refused = any(destination in network for network in NEVER)

    verdict = compiled(policy).verdict("forward", packet)
    assert verdict == ("accept" if allowed and not refused else "drop")
    if verdict == "accept":
        assert compiled(policy).verdict("postrouting", packet) == "masquerade"


@EXAMPLES
@given(POLICIES, NUMBERS, DESTINATIONS, st.sampled_from(["established", "related", "invalid"]))
def test_metadata_and_loopback_are_refused_in_every_state(
    policy: dict[int, Egress], number: int, destination: IPv4Address, state: str
) -> None:
    if not any(destination in network for network in NEVER):
        destination = IPv4Address("169.254.169.254")

    packet = Packet("br-fc", "uplink", LAN.subnet[number], destination, state)
    assert compiled(policy).verdict("forward", packet) == "drop"


@EXAMPLES
@given(POLICIES, NUMBERS, st.sampled_from(["127.0.0.1", "169.254.1.1", "255.255.255.255"]))
def test_nothing_local_is_reached_by_an_address_no_guest_reaches(
    policy: dict[int, Egress], number: int, destination: str
) -> None:
    packet = Packet("br-fc", "", LAN.subnet[number], IPv4Address(destination))

    assert compiled(policy).verdict("input", packet) == "drop"


@EXAMPLES
@given(POLICIES, NUMBERS)
def test_the_host_is_reached_if_and_only_if_it_is_named(
    policy: dict[int, Egress], number: int
) -> None:
    packet = Packet("br-fc", "", LAN.subnet[number], LAN.gateway)
    named = "10.213.0.1/32" in policy.get(number, Egress()).allow

    assert compiled(policy).verdict("input", packet) == ("accept" if named else "drop")


@EXAMPLES
@given(POLICIES, NUMBERS, NUMBERS, st.sampled_from(["new", "established", "related"]))
def test_guests_are_kept_apart_in_every_state(
    policy: dict[int, Egress], one: int, other: int, state: str
) -> None:
    packet = Packet("br-fc", "br-fc", LAN.subnet[one], LAN.subnet[other], state)

    assert compiled(policy).verdict("forward", packet) == "drop"


@EXAMPLES
@given(POLICIES, NUMBERS, DESTINATIONS)
def test_from_outside_only_answers_come_in(
    policy: dict[int, Egress], number: int, source: IPv4Address
) -> None:
    def arriving(state: str) -> str:
        packet = Packet("uplink", "br-fc", source, LAN.subnet[number], state)
        return compiled(policy).verdict("forward", packet)

    assert [arriving(state) for state in ("new", "established")] == ["drop", "accept"]


@EXAMPLES
@given(POLICIES, DESTINATIONS, DESTINATIONS, st.sampled_from(["new", "established", "invalid"]))
def test_what_is_no_guests_is_left_alone(
    policy: dict[int, Egress], source: IPv4Address, destination: IPv4Address, state: str
) -> None:
    packet = Packet("eth0", "docker0", source, destination, state)
    filtered = compiled(policy)

    assert filtered.verdict("forward", packet) == "accept"
    assert filtered.verdict("input", packet) == "accept"


PORTS = st.integers(1, 4)
PROTOCOLS = st.sampled_from(list(ops.Protocol))
PUBLISHED = st.dictionaries(NUMBERS, st.lists(st.tuples(PROTOCOLS, PORTS), max_size=4), max_size=4)


@EXAMPLES
@given(PUBLISHED, NUMBERS, PROTOCOLS, PORTS, st.sampled_from(["", "dnat"]))
def test_what_is_published_is_reached_where_it_was_led_and_nothing_else(
    published: dict[int, list[tuple[ops.Protocol, int]]],
    number: int,
    protocol: ops.Protocol,
    port: int,
    status: str,
) -> None:
    filtered = publishing(published)
    client, guest = IPv4Address("203.0.113.9"), LAN.subnet[number]
    expected = "accept" if status and (protocol, port) in published.get(number, []) else "drop"

    def led(iifname: str, oifname: str, source: IPv4Address, target: IPv4Address) -> Packet:
        return Packet(iifname, oifname, source, target, status=status, l4proto=protocol.value)

    question = replace(led("uplink", "br-fc", client, guest), dport=port)
    assert filtered.verdict("forward", question) == expected
    unasked = replace(led("br-fc", "uplink", guest, client), sport=port)
    answer = replace(unasked, direction="reply")
    assert filtered.verdict("forward", answer) == expected
    assert filtered.verdict("forward", unasked) == "drop"
    neighbour = replace(led("br-fc", "br-fc", LAN.subnet[99], guest), dport=port)
    assert filtered.verdict("forward", neighbour) == "drop"


def publishing(published: dict[int, list[tuple[ops.Protocol, int]]]) -> Filter:
    leases = [
        Lease(
            f"tap-fc-{number}",
            str(LAN.subnet[number]),
            Egress(),
            tuple(
                ops.Publication(address="0.0.0.0", port=1, guest_port=port, protocol=protocol)
                for protocol, port in ports
            ),
        )
        for number, ports in published.items()
    ]
    return Filter(nft.ruleset(filter_policy(LAN, leases)))
