"""`vm set`: change the specification of a VM that is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import UpdateVM, VMSpec, VMState
from banger.api.sizes import format_size
from banger.daemon.store.rows import DiskFile
from banger.daemon.vms import leases
from banger.daemon.vms.layers import settle
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.plan import check_disk_size
from banger.daemon.vms.seams import reach
from banger.host.resources import check_memory
from banger.storage.layers import layer_path
from banger.storage.workdisk import grow_work_disk

_SPEC_FIELDS = ("vcpus", "memory", "ports", "disk_size", "autostart", "disk_rate", "net_rate")


async def apply(machine: Machine, request: UpdateVM, announce: Callable[[str], None]) -> None:
    """Make the changes `request` names; every check comes before the first change.

    Raises CallerError: vm_running, disk_too_small, invalid_size, port_taken, name_taken;
    PermanentError: insufficient_memory, insufficient_disk.
    """
    _check(machine, request)
    if request.disk_size is not UNSET and request.disk_size != machine.row.spec.disk_size:
        announce("grow work disk")
        await _grow(machine, request.disk_size)

    if request.ports is not UNSET:
        await leases.set_ports(machine, request.ports)

    name = machine.row.name if request.name is UNSET else request.name
    await machine.record(spec=wanted(machine.row.spec, request), name=name)


def wanted(spec: VMSpec, request: UpdateVM) -> VMSpec:
    """`spec` with what `request` names changed. Raises CallerError(invalid_request)."""
    changes = {field: getattr(request, field) for field in _SPEC_FIELDS}
    named = {field: value for field, value in changes.items() if value is not UNSET}
    nat = None if request.nat is UNSET else request.nat
    allow = None if request.allow is UNSET else request.allow
    return reach(msgspec.structs.replace(spec, **named), nat, allow)


async def _grow(machine: Machine, size: int) -> None:
    """Give it a larger work disk of its own: what lay below the old one is left to who shares it.

    The old one stays until that is recorded, so whatever happens there is one or the other.
    """
    disks = machine.row.handles.disks
    path = layer_path(machine.site.paths.disks, "raw")
    grown = msgspec.structs.replace(disks, work=DiskFile(path=str(path), format="raw"))
    await machine.record_handles(next=grown)
    try:
        await grow_work_disk(machine.work_disk, path, size)
    except BaseException:
        await asyncio.shield(settle(machine))
        raise

    handles = msgspec.structs.replace(machine.row.handles, disks=grown, next=None)
    spec = msgspec.structs.replace(machine.row.spec, disk_size=size)
    await machine.record(handles=handles, spec=spec)
    machine.site.litter.set()


def _check(machine: Machine, request: UpdateVM) -> None:
    row = machine.row
    if row.state is not VMState.STOPPED:
        raise CallerError(
            ErrorCode.VM_RUNNING,
            f"VM {row.name} is {row.state}: its settings change while it is stopped",
            hint=f"stop it first: banger vm stop {row.name}",
        )

    if request.disk_size is not UNSET:
        check_disk_size(request.disk_size)

    if request.disk_size is not UNSET and request.disk_size < row.spec.disk_size:
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"the work disk of {row.name} is {format_size(row.spec.disk_size)} and cannot shrink",
            hint="give a larger --disk-size",
        )

    if request.memory is not UNSET:
        check_memory(request.memory)

    if request.ports is not UNSET:
        for port in request.ports:
            leases.require_free(port)
