"""Addresses and host ports: chosen here, made unique by the store.

A choice is a guess until the store has accepted it: the table's constraint decides, and who was
refused picks again. The reservation lock, held only for that moment, keeps creations that run side
by side from picking the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from banger.api.errors import CallerError, ErrorCode, TransientError
from banger.api.models import PortForward
from banger.daemon.store import Lease, LeaseTaken, Store
from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.vms.machine import Machine, Site
from banger.network.ports import pick_port, port_obstacle

SSH_HOST = "127.0.0.1"

# A VM that takes the port a creation is about to take can only be one that moves its ssh port.
ATTEMPTS = 5


def port_lease(host_ip: str, port: int, protocol: str) -> Lease:
    return Lease(kind="port", value=f"{protocol}/{host_ip}:{port}")


def leases_of(handles: Handles, ports: Sequence[PortForward]) -> list[Lease]:
    """All that a VM with these handles and published ports holds exclusively."""
    ssh = [port_lease(SSH_HOST, handles.ssh_port, "tcp")] if handles.ssh_port else []
    return [
        Lease(kind="address", value=handles.address),
        *ssh,
        *(port_lease(port.host_ip, port.host_port, port.protocol) for port in ports),
    ]


def require_free(forward: PortForward) -> None:
    """Raise CallerError(port_taken) when this user cannot listen there now, for whatever reason."""
    obstacle = port_obstacle(forward.host_ip, forward.host_port, forward.protocol)
    if obstacle is not None:
        raise taken(forward, obstacle)


def taken(forward: PortForward, obstacle: str = "it is in use") -> CallerError:
    """The error for a port that cannot be had."""
    port = f"{forward.host_ip}:{forward.host_port}/{forward.protocol}"
    return CallerError(
        ErrorCode.PORT_TAKEN,
        f"cannot listen on host port {port}: {obstacle}",
        hint="publish another one with -p, or see who has it: ss -ltnup",
    )


async def insert(site: Site, row: VMRow) -> VMRow:
    """Store `row` under a free address and ssh port; return it as stored, not durably.

    Raises CallerError: name_taken, or port_taken for a published port another VM holds.
    """
    async with site.reservation:
        for _attempt in range(ATTEMPTS):
            handles = await _choose(site, row)
            candidate = msgspec.structs.replace(row, handles=handles)
            try:
                leases = leases_of(handles, row.spec.ports)
                await site.store.insert_vm(candidate, leases, durable=False)
            except LeaseTaken as error:
                _refuse_if_published(error.lease, row.spec.ports)
                continue

            return candidate

    raise TransientError(
        ErrorCode.VM_BUSY, "found no free address and port", hint="repeat the command"
    )


async def move_ssh_port(machine: Machine) -> None:
    """Give `machine` another ssh port, because a stranger listens on its own."""
    site, row = machine.site, machine.row
    for _attempt in range(ATTEMPTS):
        port = pick_port(site.config.network.ssh_ports, await _ports_taken(site.store))
        handles = msgspec.structs.replace(row.handles, ssh_port=port)
        try:
            await site.store.set_leases(row.id, leases_of(handles, row.spec.ports))
        except LeaseTaken:
            continue

        await machine.record(handles=handles)
        return

    raise TransientError(ErrorCode.VM_BUSY, "found no free ssh port", hint="repeat the command")


async def set_ports(machine: Machine, ports: Sequence[PortForward]) -> None:
    """Hold `ports` instead of what the VM publishes now. Raises CallerError(port_taken)."""
    try:
        await machine.site.store.set_leases(machine.row.id, leases_of(machine.row.handles, ports))
    except LeaseTaken as error:
        _refuse_if_published(error.lease, ports)
        raise


def _refuse_if_published(lease: Lease, ports: Sequence[PortForward]) -> None:
    for port in ports:
        if port_lease(port.host_ip, port.host_port, port.protocol) == lease:
            raise taken(port)


async def _choose(site: Site, row: VMRow) -> Handles:
    addresses, ports = await site.store.leases("address"), await _ports_taken(site.store)
    handles = site.network.lease(row.handles, addresses, ports)
    mac = site.network.mac(row.id, handles.address)
    return msgspec.structs.replace(handles, mac=mac)


async def _ports_taken(store: Store) -> set[int]:
    prefix = f"tcp/{SSH_HOST}:"
    return {
        int(value.removeprefix(prefix))
        for value in await store.leases("port")
        if value.startswith(prefix)
    }
