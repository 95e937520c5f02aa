"""The bridge and its taps, made by ip(8) in batches: one program for any number of changes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Interface

from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import addresses, links, names
from banger.privileged.ops import CreateTaps, DeleteTaps, EnsureBridge, RemoveBridge
from banger.privileged.run import run
from banger.privileged.site import Site

# Frames to link-local groups pass by the packet filter: nothing is to be learnt from them.
_OPTIONS = "stp_state 0 forward_delay 0 no_linklocal_learn 1"


def ensure_bridge(_: Site, request: EnsureBridge) -> None:
    """See EnsureBridge."""
    bridge = names.bridge_name(request.bridge)
    interface = addresses.bridge_address(request.address, request.prefix)
    if not links.present(bridge):
        _make_bridge(bridge, interface)
        return

    links.require_bridge(bridge)
    stale = [address for address in _addresses(bridge) if address != str(interface)]
    _batch(
        [
            *(f"address del {address} dev {bridge}" for address in stale),
            f"address replace {interface} dev {bridge}",
            f"link set dev {bridge} up",
        ]
    )


def remove_bridge(_: Site, request: RemoveBridge) -> None:
    """See RemoveBridge."""
    bridge = names.bridge_name(request.bridge)
    if not links.present(bridge):
        return

    links.require_bridge(bridge)
    if ports := links.ports(bridge):
        raise Fault(FaultCode.BUSY, f"{bridge} still has {len(ports)} ports, such as {ports[0]}")

    _batch([f"link delete dev {bridge} type bridge"])


def create_taps(site: Site, request: CreateTaps) -> None:
    """See CreateTaps."""
    bridge = names.bridge_name(request.bridge)
    links.require_bridge(bridge)
    old = _ours(site, request.taps)
    try:
        _batch([*_deletions(old), *_creations(site, request)])
    except BaseException:
        _batch(_deletions(tap for tap in request.taps if links.is_tap_of(tap, site.owner_uid)))
        raise


def delete_taps(site: Site, request: DeleteTaps) -> None:
    """See DeleteTaps."""
    _batch(_deletions(_ours(site, request.taps)))


def _ours(site: Site, taps: tuple[str, ...]) -> list[str]:
    """Those of `taps` that exist; raises when one of them is not ours."""
    names.distinct(taps, "tap")
    there = [tap for tap in map(names.tap_name, taps) if links.present(tap)]
    for tap in there:
        links.require_tap(tap, site.owner_uid)

    return there


def _make_bridge(bridge: str, interface: IPv4Interface) -> None:
    # A bridge without a MAC of its own takes its lowest port's, so that guests would see it change.
    mac = "02:fc:" + ":".join(f"{byte:02x}" for byte in interface.ip.packed)
    try:
        _batch(
            [
                f"link add name {bridge} address {mac} type bridge {_OPTIONS}",
                f"link set dev {bridge} alias {links.MARK} addrgenmode none",
                f"address add {interface} dev {bridge}",
                f"link set dev {bridge} up",
            ]
        )
    except BaseException:
        if links.is_marked_bridge(bridge):
            _batch([f"link delete dev {bridge} type bridge"])

        raise


def _creations(site: Site, request: CreateTaps) -> Iterable[str]:
    isolated = "on" if request.isolated else "off"
    for tap in request.taps:
        yield f"tuntap add dev {tap} mode tap user {site.owner_uid} group {site.owner_gid}"
        yield f"link set dev {tap} alias {links.MARK} addrgenmode none"
        yield f"link set dev {tap} master {request.bridge}"
        yield f"link set dev {tap} type bridge_slave isolated {isolated}"
        yield f"link set dev {tap} up"


def _deletions(taps: Iterable[str]) -> list[str]:
    return [f"link delete dev {tap}" for tap in taps]


def _batch(lines: Iterable[str]) -> None:
    """ip(8) stops at the first line that fails."""
    if text := "".join(f"{line}\n" for line in lines):
        run(["ip", "-batch", "-"], stdin=text)


def _addresses(bridge: str) -> list[str]:
    shown = json.loads(run(["ip", "-json", "-4", "address", "show", "dev", bridge]).stdout)
    return [
        f"{entry['local']}/{entry['prefixlen']}"
        for link in shown
        for entry in link.get("addr_info", ())
    ]
