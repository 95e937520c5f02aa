"""Guests' ports on the host: what of the packet filter leads there, and back.

A connection of the host's own is sent on where it begins (the hook `output`), one from outside
where it arrives; never one that guests begin. What the host says from its loopback address has to
leave by the bridge, and the answer to come back from there, which the kernel allows for the bridge
alone and as long as something is published on loopback (ip-sysctl: route_localnet). What guests
send to loopback unasked is dropped as ever (`nft.py`), and they cannot speak from it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from banger.privileged.ops import ApplyPolicy, Guest, Publication
from banger.privileged.ruleset import (
    ACCEPT,
    DROP,
    IP_DESTINATION,
    IP_SOURCE,
    Chain,
    Json,
    among,
    match,
    meta,
    new_set,
    payload,
    prefix,
)

_ANY = str(IPv4Address(0))
_LOOPBACK = IPv4Network("127.0.0.0/8")
_INTERFACES = Path("/proc/sys/net/ipv4/conf")

_OURS = match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
_LED = match({"ct": {"key": "status"}}, "dnat", "in")


def publications(policy: ApplyPolicy) -> list[tuple[Guest, Publication]]:
    """All, with the guest that each leads to."""
    return [(guest, one) for guest in policy.guests for one in guest.published]


def from_outside(one: Publication) -> bool:
    """Whether other machines may come, which takes forwarding."""
    return IPv4Address(one.address) not in _LOOPBACK


def let_loopback_out(policy: ApplyPolicy) -> None:
    """Allow the bridge, or not, what the host publishes on its loopback addresses needs."""
    setting = _INTERFACES / policy.bridge / "route_localnet"
    needed = any(one.address == _ANY or not from_outside(one) for _, one in publications(policy))
    wanted = "1" if needed else "0"
    # Without a bridge nobody is on it.
    if setting.exists() and setting.read_text().strip() != wanted:
        setting.write_text(wanted)


def reachable(policy: ApplyPolicy) -> Json:
    """The set of guests' addresses and ports that are published."""
    elements = dict.fromkeys(
        (guest.address, str(one.protocol), one.guest_port) for guest, one in publications(policy)
    )
    kind = ["ipv4_addr", "inet_proto", "inet_service"]
    return new_set("inet", "reachable", kind, ({"concat": list(one)} for one in elements))


def inward(chain: Chain, to_guests: Json) -> list[Json]:
    """What is led to guests, packet by packet: one that is withdrawn ends connections."""
    led = (to_guests, _direction("original"), _LED)
    target = [IP_DESTINATION, meta("l4proto"), payload("th", "dport")]
    return [chain.rule(*led, among(target, "reachable"), ACCEPT), chain.rule(*led, DROP)]


def outward(chain: Chain, from_guests: Json) -> Json:
    """Guests' answers to that."""
    origin = [IP_SOURCE, meta("l4proto"), payload("th", "sport")]
    back = (_direction("reply"), _LED, among(origin, "reachable"))
    return chain.rule(from_guests, *back, ACCEPT)


def lead(policy: ApplyPolicy) -> list[Json]:
    """The chains that lead to guests; only the first packet of a connection passes them."""
    here = Chain("inet", "published_here", "nat", "output", -100)
    there = Chain("inet", "published", "nat", "prerouting", -100)
    outside = match(meta("iifname"), policy.bridge, "!=")
    rules = []
    for guest, one in publications(policy):
        rules.append(here.rule(*_led(guest, one)))
        # A neighbour may well send what is addressed to 127.0.0.1.
        if from_outside(one):
            rules.append(there.rule(outside, *_led(guest, one)))

    return [here.definition, there.definition, *rules]


def hide_loopback(chain: Chain, bridge: str) -> Json:
    """A guest cannot answer 127.0.0.1: it is called from the bridge's address instead."""
    source = match(IP_SOURCE, prefix(_LOOPBACK))
    return chain.rule(match(meta("oifname"), bridge), source, {"masquerade": None})


def _led(guest: Guest, one: Publication) -> tuple[Json, ...]:
    return (
        match(meta("nfproto"), "ipv4"),
        _OURS if one.address == _ANY else match(IP_DESTINATION, one.address),
        match(payload(one.protocol, "dport"), one.port),
        {"dnat": {"family": "ip", "addr": guest.address, "port": one.guest_port}},
    )


def _direction(name: str) -> Json:
    return match({"ct": {"key": "direction"}}, name)
