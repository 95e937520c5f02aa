"""What a guest may reach beyond the bridge, as the user says it and as the packet filter needs it.

Whatever the policy, a guest never reaches its neighbours, the host's loopback or cloud metadata:
that is not for a policy to say, so the filter's compiler holds it (`privileged/nft.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.privileged.gates.addresses import NEVER

# The helper refuses more.
MOST_ALLOWED = 64
# resolv.conf(5): MAXNS.
_MOST_RESOLVERS = 3

_HINT = 'give "none", "nat", or networks such as "192.0.2.0/24,198.51.100.7"'


class Egress(msgspec.Struct, frozen=True, omit_defaults=True):
    """`none`; `nat`, everything; or `allow`, the networks listed and nothing else."""

    mode: Literal["none", "nat", "allow"] = "none"
    allow: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join(self.allow) if self.mode == "allow" else self.mode


def parse_egress(text: str) -> Egress:
    """`none`, `nat`, or IPv4 addresses and networks separated by commas.

    A network does not mean the host, should it contain one of its addresses; a single address does.

    Raises CallerError(invalid_request) naming the entry that is wrong.
    """
    if text in ("none", "nat"):
        return Egress("none" if text == "none" else "nat")

    # Kept as written: an address of the host's counts only when it is named by itself.
    networks = dict.fromkeys(_network(part.strip()) for part in text.split(","))
    if len(networks) > MOST_ALLOWED:
        raise _invalid(f"an allowlist has at most {MOST_ALLOWED} networks, not {len(networks)}")

    return Egress("allow", tuple(str(network) for network in networks))


def usable_resolvers(egress: Egress, resolvers: Collection[str]) -> tuple[str, ...]:
    """Those of `resolvers` that a guest with `egress` can ask, at most three."""
    if egress.mode == "none":
        return ()

    networks = [IPv4Network(text) for text in egress.allow]
    usable = [
        each
        for each in resolvers
        if egress.mode == "nat" or any(IPv4Address(each) in network for network in networks)
    ]
    return tuple(usable[:_MOST_RESOLVERS])


def _network(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise _invalid(f"{text!r} is no IPv4 network: {error}") from None
    refused = next((each for each in NEVER if network.subnet_of(each)), None)
    if refused is not None:
        raise _invalid(f"no guest ever reaches {text}, which is in {refused}")

    return network


def _invalid(message: str) -> CallerError:
    return CallerError(ErrorCode.INVALID_REQUEST, message, hint=_HINT)
