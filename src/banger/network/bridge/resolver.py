"""Names: how the host comes to ask our DNS server, and whom the guests ask."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

from banger.network.bridge.lan import Lan
from banger.privileged import ops
from banger.privileged.gates.addresses import NEVER

# systemd-resolved(8): the servers it asks itself, where resolv.conf names but its own stub.
_RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


def routing(lan: Lan, port: int) -> ops.RouteResolver:
    """Have the host ask the server on the bridge's own address.

    Not on 127.0.0.1: systemd-resolved 251 sends what it asks on behalf of a link out of that link,
    where there is no loopback (systemd issues 25397 and 25595). By itself it asks there for the
    names of addresses on the link too, so nothing is said of in-addr.arpa (systemd issue 10081).
    """
    return ops.RouteResolver(bridge=lan.bridge, server=str(lan.gateway), port=port)


def upstream_resolvers(files: Iterable[Path] = _RESOLV_CONF) -> tuple[str, ...]:
    """The IPv4 servers that this host asks and guests can too: those of the first file with any."""
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if found := parse_resolv_conf(text):
            return found

    return ()


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """The servers in a resolv.conf(5) that are IPv4 and not this host's own, in order."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and _usable(words[1]):
            found.append(words[1])

    return tuple(dict.fromkeys(found))


def _usable(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    return not any(address in network for network in NEVER)
