"""Rows as the API shows them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from banger.api.models import VM, VMState, VMStats
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.machine import Machine
from banger.host.files import allocated_bytes


def vm_of(row: VMRow) -> VM:
    """What a list shows of a VM: nothing that would need a look at the host."""
    handle = row.handles.vmm
    return VM(
        id=row.id,
        name=row.name,
        state=row.state,
        spec=row.spec,
        image_id=row.image_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        address=row.handles.address,
        ssh_port=row.handles.ssh_port,
        pid=handle.pid if handle else None,
        accelerator=handle.accelerator if handle else None,
        boot_id=row.guest_boot_id,
        reason=row.reason,
        holder_pid=row.holder.pid if row.holder else None,
        operation=row.operation,
    )


def stats_of(machine: Machine) -> VMStats:
    """What a VM uses right now; for one that is not running only its disks count."""
    row = machine.row
    usage = None
    if row.state is VMState.RUNNING and row.handles.vmm is not None:
        usage = machine.site.hypervisor.usage(row.handles.vmm)

    disks = VMStats(
        id=row.id,
        name=row.name,
        state=row.state,
        root_allocated_bytes=_allocated(machine.root_disk),
        work_allocated_bytes=_allocated(machine.work_disk),
    )
    if usage is None:
        return disks

    return msgspec.structs.replace(
        disks,
        cpu_seconds=usage.cpu_seconds,
        cpu_percent=usage.cpu_percent,
        rss_bytes=usage.rss_bytes,
        pss_bytes=usage.pss_bytes,
        uptime_seconds=usage.uptime_seconds,
    )


def disk_bytes(machine: Machine) -> int:
    """Bytes that a VM's two disks really take on the host."""
    return _allocated(machine.root_disk) + _allocated(machine.work_disk)


def _allocated(path: Path) -> int:
    return allocated_bytes(path) if path.exists() else 0
