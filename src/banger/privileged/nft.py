"""The packet filter: two tables called `banger` that are replaced together, in one transaction.

`bridge banger` lets a guest speak only from its own port, MAC and address, and only IPv4; `inet
banger` says what may be forwarded, what may reach the host, what is masqueraded and what is led to
guests' published ports (`publishing.py`). Both look a packet up in sets, so their cost does not
grow with the number of guests.

Another program's chain on the same hook can still drop what ours accept, as Docker's FORWARD policy
does; where there is such a chain, rules with our comment are put at its head.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses
from pathlib import Path
from typing import Any

from banger.privileged import publishing
from banger.privileged.faults import refused
from banger.privileged.gates import addresses, names, ports
from banger.privileged.ops import ApplyPolicy, Egress, Guest, RemovePolicy
from banger.privileged.ruleset import (
    ACCEPT,
    DROP,
    ESTABLISHED,
    IP_DESTINATION,
    IP_SOURCE,
    TABLE,
    Chain,
    Json,
    among,
    match,
    meta,
    new_set,
    payload,
    prefix,
)
from banger.privileged.run import run
from banger.privileged.site import Site

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_MOST_ALLOWED = 64

# Chains of iptables-nft that may drop what is forwarded: Docker's for users, else the hook's own.
_FOREIGN_CHAINS = ("DOCKER-USER", "FORWARD")


def apply_policy(site: Site, request: ApplyPolicy) -> None:
    """See ApplyPolicy."""
    _check(request, site.owner_uid)
    commands = [*_clearing(), *ruleset(request), *_foreign(request.bridge)]
    if _forwards(request):
        _forward_packets()

    publishing.let_loopback_out(request)

    _commit(commands)


def remove_policy(_: Site, request: RemovePolicy) -> None:
    """See RemovePolicy."""
    assert isinstance(request, RemovePolicy)
    _commit([*_clearing(), *_foreign_deletions()])


def _forwards(policy: ApplyPolicy) -> bool:
    reaching = any(guest.egress is not Egress.NONE for guest in policy.guests)
    return reaching or any(
        publishing.from_outside(one) for _, one in publishing.publications(policy)
    )


def _forward_packets() -> None:
    # It may be read-only in a unit of systemd's, and was then turned on by sysctl.d(5).
    if _FORWARDING.read_text().strip() == "0":
        _FORWARDING.write_text("1")


def ruleset(policy: ApplyPolicy) -> list[Json]:
    """The commands that make both tables, for a policy that the gates let through."""
    return [*_bridge_table(policy), *_inet_table(policy)]


def _check(policy: ApplyPolicy, owner_uid: int) -> None:
    names.bridge_name(policy.bridge)
    interface = addresses.bridge_address(policy.address, policy.prefix)
    for guest in policy.guests:
        names.tap_name(guest.tap)
        names.mac_address(guest.mac)
        addresses.guest_address(guest.address, interface)
        if guest.allow and guest.egress is not Egress.ALLOW:
            raise refused(f"{guest.tap} has an allowlist and egress {guest.egress}")

        if len(guest.allow) > _MOST_ALLOWED:
            raise refused(f"{guest.tap} has more than {_MOST_ALLOWED} allowed networks")

        for network in guest.allow:
            addresses.allowed_network(network)

    ports.published((one for guest in policy.guests for one in guest.published), owner_uid)
    names.distinct(tuple(guest.tap for guest in policy.guests), "tap")
    names.distinct(tuple(guest.address for guest in policy.guests), "address")


def _clearing() -> list[Json]:
    """Remove both tables; adding one that exists does nothing, removing one that does not fails."""
    return [
        {verb: {"table": {"family": family, "name": TABLE}}}
        for family in ("bridge", "inet")
        for verb in ("add", "delete")
    ]


def _bridge_table(policy: ApplyPolicy) -> list[Json]:
    # Matching the bridge itself (ibrname) takes a kernel option that not all have.
    ours = match(meta("iifname"), f"{names.TAP_PREFIX}*")
    chain = Chain("bridge", "guard", "filter", "prerouting", -200)
    sender = [meta("iifname"), payload("ether", "saddr")]
    ip = among([*sender, payload("ip", "saddr")], "speakers")
    # The frame's own sender counts too: it is what the bridge learns from.
    arp = among([*sender, payload("arp", "saddr ip")], "speakers")
    said = [meta("iifname"), payload("arp", "saddr ether"), payload("arp", "saddr ip")]
    speakers = [{"concat": [guest.tap, guest.mac, guest.address]} for guest in policy.guests]
    return [
        {"add": {"table": {"family": "bridge", "name": TABLE}}},
        new_set("bridge", "speakers", ["ifname", "ether_addr", "ipv4_addr"], speakers),
        chain.definition,
        chain.rule(
            ours, match(payload("ether", "type"), "arp"), arp, among(said, "speakers"), ACCEPT
        ),
        chain.rule(ours, match(payload("ether", "type"), "ip"), ip, ACCEPT),
        chain.rule(ours, DROP),
    ]


def _inet_table(policy: ApplyPolicy) -> list[Json]:
    pair = ["ipv4_addr", "ipv4_addr"]
    nat = [guest.address for guest in policy.guests if guest.egress is Egress.NAT]
    allowing = [guest for guest in policy.guests if guest.egress is Egress.ALLOW and guest.allow]
    never = [prefix(network) for network in addresses.NEVER]
    return [
        {"add": {"table": {"family": "inet", "name": TABLE}}},
        new_set("inet", "nat", "ipv4_addr", nat),
        new_set("inet", "allowed", pair, _allowed(allowing), interval=True),
        new_set("inet", "named", pair, _named(allowing)),
        new_set("inet", "never", "ipv4_addr", never, interval=True),
        publishing.reachable(policy),
        *_forward(policy),
        *_input(policy.bridge),
        *publishing.lead(policy),
        *_masquerade(policy.bridge),
    ]


def _forward(policy: ApplyPolicy) -> list[Json]:
    """Guests' packets are judged one by one: a permission withdrawn ends connections."""
    chain = Chain("inet", "forward", "filter", "forward", 0)
    inward = match(meta("oifname"), policy.bridge)
    outward = match(meta("iifname"), policy.bridge)
    between = DROP if policy.isolated else ACCEPT
    return [
        chain.definition,
        chain.rule(outward, inward, between),
        *publishing.inward(chain, inward),
        chain.rule(inward, ESTABLISHED, ACCEPT),
        chain.rule(inward, DROP),
        chain.rule(outward, among([IP_DESTINATION], "never"), DROP),
        publishing.outward(chain, outward),
        chain.rule(outward, among([IP_SOURCE], "nat"), ACCEPT),
        chain.rule(outward, among([IP_SOURCE, IP_DESTINATION], "allowed"), ACCEPT),
        chain.rule(outward, DROP),
    ]


def _input(bridge: str) -> list[Json]:
    """A guest answers the host, and speaks to it unasked only at an address named as such."""
    chain = Chain("inet", "input", "filter", "input", 0)
    ours = match(meta("iifname"), bridge)
    return [
        chain.definition,
        chain.rule(ours, ESTABLISHED, ACCEPT),
        chain.rule(ours, among([IP_DESTINATION], "never"), DROP),
        chain.rule(ours, among([IP_SOURCE, IP_DESTINATION], "named"), ACCEPT),
        chain.rule(ours, DROP),
    ]


def _masquerade(bridge: str) -> list[Json]:
    chain = Chain("inet", "postrouting", "nat", "postrouting", 100)
    away = match(meta("oifname"), bridge, "!=")
    hidden: Json = {"masquerade": None}
    return [
        chain.definition,
        chain.rule(away, among([IP_SOURCE], "nat"), hidden),
        chain.rule(away, among([IP_SOURCE, IP_DESTINATION], "allowed"), hidden),
        publishing.hide_loopback(chain, bridge),
    ]


def _allowed(guests: Iterable[Guest]) -> list[object]:
    return [
        {"concat": [guest.address, prefix(network)]}
        for guest in guests
        # A set takes no overlapping ranges.
        for network in collapse_addresses(IPv4Network(text) for text in guest.allow)
    ]


def _named(guests: Iterable[Guest]) -> list[object]:
    """Single addresses: a network that contains one of the host's does not mean the host."""
    return [
        {"concat": [guest.address, str(network.network_address)]}
        for guest in guests
        for network in {IPv4Network(text) for text in guest.allow}
        if network.prefixlen == 32
    ]


def _foreign(bridge: str) -> list[Json]:
    """Rules for another program's dropping chain, unless they are there already.

    They say only what iptables can say too, or it would refuse to read its own table. That they
    take all that goes to guests opens nothing: our own chain on the hook judges it as well.
    """
    chain = _foreign_chain()
    if chain is None or _marked_rules(chain):
        return []

    inward = [match(meta("oifname"), bridge), ACCEPT]
    outward = [match(meta("iifname"), bridge), ACCEPT]
    return [
        {"insert": {"rule": _foreign_rule(chain) | {"comment": TABLE, "expr": expression}}}
        for expression in (inward, outward)
    ]


def _foreign_deletions() -> list[Json]:
    return [
        {"delete": {"rule": _foreign_rule(chain) | {"handle": rule["handle"]}}}
        for chain in _FOREIGN_CHAINS
        for rule in _marked_rules(chain)
    ]


def _foreign_rule(chain: str) -> Json:
    return {"family": "ip", "table": "filter", "chain": chain}


def _foreign_chain() -> str | None:
    # One program, not one for each: starting it takes longer than all it does.
    chains = _listed(["chains", "ip"], "chain")
    present = {chain["name"]: chain for chain in chains if chain["table"] == "filter"}
    for name in _FOREIGN_CHAINS:
        if name in present and (name == "DOCKER-USER" or present[name].get("policy") == "drop"):
            return name

    return None


def _marked_rules(chain: str) -> list[Json]:
    listed = _listed(["chain", "ip", "filter", chain], "rule")
    return [rule for rule in listed if rule.get("comment") == TABLE]


def _listed(what: list[str], kind: str) -> list[Any]:
    shown = run(["nft", "-j", "list", *what], accept=(0, 1))
    if shown.returncode != 0:
        return []

    return [entry[kind] for entry in json.loads(shown.stdout)["nftables"] if kind in entry]


def _commit(commands: list[Json]) -> None:
    run(["nft", "-j", "-f", "-"], stdin=json.dumps({"nftables": commands}))
