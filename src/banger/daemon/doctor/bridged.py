"""What the system path's VMs are made of: devices, programs, the bridge, names under .vm."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from banger.api.errors import BangerError
from banger.api.models import Check
from banger.daemon.doctor.findings import failed, passed, warned
from banger.daemon.doctor.programs import programs
from banger.host import runner
from banger.host.config import load_config
from banger.hypervisor import kvm
from banger.network.bridge.routes import read_routes, settle
from banger.network.dns.zone import DOMAIN

# Program -> the Debian package it is in; with the root helper's.
_TOOLS = {
    "ip": "iproute2",
    "nft": "nftables",
    "busctl": "systemd",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
}
# linux/miscdevice.h: the device's name, and the module that makes it.
_MODULES = {"tun": "tun", "loop-control": "loop", "device-mapper": "dm_mod"}
_RECIPES = "docs/network.md has recipes for dnsmasq, NetworkManager and plain resolv.conf"


async def virtualization(name: str = "acceleration") -> Check:
    """KVM runs guests here; Firecracker knows nothing else."""
    verdict = await asyncio.to_thread(kvm.probe)
    if verdict.usable:
        return passed(name, f"KVM: {verdict.reason}")

    fix = "switch virtualization on in the firmware, or nested virtualization in the host above"
    return failed(name, f"Firecracker needs KVM: {verdict.reason}", fix)


async def devices(root: Path = Path("/")) -> Check:
    """The kernel has what disks and taps are made with."""
    there = root / "sys/class/misc"
    missing = [module for name, module in _MODULES.items() if not (there / name).exists()]
    if missing:
        fix = f"sudo modprobe --all {' '.join(missing)} && sudo banger system restart helper"
        return failed("devices", f"the kernel has no {', '.join(missing)}", fix)

    return passed("devices", f"the kernel has {', '.join(_MODULES.values())}")


async def tools() -> Check:
    """Disks can be made, links and filters set."""
    return programs("tools", _TOOLS)


async def bridge(config_file: Path, name: str, root: Path = Path("/")) -> Check:
    """The bridge is there, and no other route of the host leads into its network.

    Raises what `runner.run` raises, and CallerError(config_invalid).
    """
    wanted = load_config(config_file).network.subnet
    link = root / "sys/class/net" / name
    if not link.exists():
        return failed("network", f"there is no bridge {name}", "sudo banger system restart daemon")

    alias = (link / "ifalias").read_text().strip()
    if not (link / "bridge").exists() or alias != "banger":
        fix = f"rename or remove it, then: sudo banger system restart; see: ip -d link show {name}"
        return failed("network", f"{name} is there, and is not banger's", fix)

    routes = await read_routes()
    own = next((route.network for route in routes if route.device == name), wanted)
    try:
        choice = settle(own, own, routes, name)
    except BangerError as error:
        return failed("network", error.message, error.hint)
    details = () if own == wanted else (f"{wanted}, which was asked for, is in use elsewhere",)
    if choice.shadowed:
        shadowed = ", ".join(map(str, choice.shadowed))
        summary = f"guests are on {own}, which hides that part of {shadowed} from the host"
        return warned("network", summary, f"set network.subnet in {config_file}", *details)

    return passed("network", f"guests are on {own}, which no other route overlaps", *details)


async def names(
    bridge: str, running: Callable[[], Awaitable[Mapping[str, str]]], root: Path = Path("/")
) -> Check:
    """This host asks banger for names under .vm; `running` VMs' names lead to their addresses."""
    name = "names"
    if runner.locate("resolvectl") is None:
        return warned(name, "no systemd-resolved: <name>.vm is not asked of banger", _RECIPES)

    shown = await runner.run(["resolvectl", "domain", bridge], check=False)
    if f"~{DOMAIN}" not in shown.text.split():
        reason = shown.complaint() if shown.status else f"it has no ~{DOMAIN} for {bridge}"
        fix = "systemctl status systemd-resolved, then: sudo banger system restart daemon"
        return warned(name, f"systemd-resolved does not ask banger for .vm: {reason}", fix)

    if not _programs_ask_resolved(root):
        summary = "systemd-resolved asks banger for .vm, but programs here do not ask it"
        return warned(name, summary, "sudo apt-get install libnss-resolve", _RECIPES)

    for vm, address in (await running()).items():
        found = await _resolve(f"{vm}.{DOMAIN}")
        if found != address:
            summary = f"{vm}.{DOMAIN} leads to {found or 'nothing'}, not {address}"
            return warned(name, summary, "resolvectl flush-caches; resolvectl status")

    return passed(name, "<name>.vm is asked of banger, through systemd-resolved")


def _programs_ask_resolved(root: Path) -> bool:
    """By nss-resolve(8), or because resolv.conf(5) names its stub."""
    hosts = _lines(root / "etc/nsswitch.conf", "hosts:")
    servers = _lines(root / "etc/resolv.conf", "nameserver")
    return any("resolve" in line.split() for line in hosts) or any(
        line.split()[1:] == ["127.0.0.53"] for line in servers
    )


def _lines(file: Path, beginning: str) -> list[str]:
    try:
        return [line for line in file.read_text().splitlines() if line.startswith(beginning)]
    except OSError:
        return []


async def _resolve(name: str) -> str | None:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, family=socket.AF_INET)
    except OSError:
        return None
    return str(found[0][4][0])
