"""The checks of an installed host, in the order they are worth reading."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from banger.api.models import Check
from banger.daemon.doctor import bridged, installed, production
from banger.daemon.doctor.building import building_service
from banger.daemon.doctor.findings import Look
from banger.host.config import load_config
from banger.privileged.base import PrivilegedOps

Running = Callable[[], Awaitable[Mapping[str, str]]]


def system_checks(
    config_file: Path,
    ops: PrivilegedOps,
    bridge: str,
    running: Running,
    building: Callable[[], Awaitable[None]],
    vm_ids: Callable[[], Awaitable[Collection[str]]],
) -> dict[str, Look]:
    """The checks; `running` tells the running VMs' addresses by their names.

    `building` raises what keeps images from being built; `vm_ids` are those the store knows.
    """
    return {
        "binaries": lambda: _binaries(ops, config_file),
        "acceleration": bridged.virtualization,
        "owner": installed.owner,
        "version": installed.version,
        "services": installed.units,
        "root helper": lambda: installed.helper(ops),
        "sockets": installed.sockets,
        "devices": bridged.devices,
        "tools": bridged.tools,
        "network": lambda: bridged.bridge(config_file, bridge),
        "root's leftovers": lambda: installed.orphans(ops, vm_ids),
        "names": lambda: bridged.names(bridge, running),
        "image building": lambda: building_service(building),
        "memory isolation": production.memory_sharing,
        "processor isolation": production.processor,
        "huge pages": production.huge_pages,
        "kernel console": production.console,
        "guests' timers": production.timers,
        "connections": production.connections,
    }


async def _binaries(ops: PrivilegedOps, config_file: Path) -> Check:
    named = load_config(config_file).hypervisor
    return await installed.binaries(ops, named.firecracker, named.jailer)
