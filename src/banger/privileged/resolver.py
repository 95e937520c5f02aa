"""Per-link DNS of systemd-resolved: `.vm` goes to banger's own server, everything else nowhere new.

The domain is a constant: a daemon that could choose it could answer for any name on this host.
"""

from __future__ import annotations

import json

from banger.privileged.gates import addresses, links, names
from banger.privileged.ops import RevertResolver, RouteResolver
from banger.privileged.run import run
from banger.privileged.site import Site

DOMAIN = "~vm"
"""A routing-only domain (systemd.network(5), Domains=): it is not searched for bare names."""


def route_resolver(_: Site, request: RouteResolver) -> None:
    """See RouteResolver."""
    bridge = names.bridge_name(request.bridge)
    links.require_bridge(bridge)
    server = addresses.resolver_address(request.server, request.port, _address(bridge))
    try:
        for command in commands(bridge, server):
            run(command)
    except BaseException:
        run(["resolvectl", "revert", bridge], accept=(0, 1))
        raise


def revert_resolver(_: Site, request: RevertResolver) -> None:
    """See RevertResolver."""
    bridge = names.bridge_name(request.bridge)
    if links.present(bridge):
        links.require_bridge(bridge)
        run(["resolvectl", "revert", bridge])


def commands(bridge: str, server: str) -> list[list[str]]:
    """The domain before the server: a server without a domain would be asked for every name."""
    return [
        ["resolvectl", "default-route", bridge, "false"],
        ["resolvectl", "domain", bridge, DOMAIN],
        ["resolvectl", "dns", bridge, server],
    ]


def _address(bridge: str) -> str | None:
    shown = json.loads(run(["ip", "-json", "-4", "address", "show", "dev", bridge]).stdout)
    found = [entry["local"] for link in shown for entry in link.get("addr_info", ())]
    return found[0] if found else None
