"""`vm set`: change the specification of a VM that is stopped."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import UpdateVM, VMState
from banger.api.sizes import format_size
from banger.daemon.vms import leases
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.plan import check_disk_size
from banger.host.resources import check_memory
from banger.storage.workdisk import grow_work_disk

_SPEC_FIELDS = ("vcpus", "memory", "nat", "ports", "disk_size")


async def apply(machine: Machine, request: UpdateVM, announce: Callable[[str], None]) -> None:
    """Make the changes `request` names; every check comes before the first change.

    Raises CallerError: vm_running, disk_too_small, invalid_size, port_taken, name_taken;
    PermanentError: insufficient_memory, insufficient_disk.
    """
    _check(machine, request)
    spec = machine.row.spec
    if request.disk_size is not UNSET and request.disk_size != spec.disk_size:
        announce("grow work disk")
        await grow_work_disk(machine.work_disk, request.disk_size)

    if request.ports is not UNSET:
        await leases.set_ports(machine, request.ports)

    changes = {field: getattr(request, field) for field in _SPEC_FIELDS}
    named = {field: value for field, value in changes.items() if value is not UNSET}
    name = machine.row.name if request.name is UNSET else request.name
    await machine.record(spec=msgspec.structs.replace(spec, **named), name=name)


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
