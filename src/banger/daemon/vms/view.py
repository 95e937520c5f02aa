"""Rows as the API shows them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from banger.api.models import VM, VMState, VMStats
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.seams import Network
from banger.storage.layers import allocated


def vm_of(row: VMRow, network: Network) -> VM:
    """What a row says of a VM: nothing that would need a look at the host."""
    handle, ssh = row.handles.vmm, network.ssh(row)
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
        ssh_host=ssh.host,
        ssh_port=ssh.port,
        hostname=network.hostname(row),
        pid=handle.pid if handle else None,
        accelerator=handle.accelerator if handle else None,
        boot_id=row.guest_boot_id,
        reason=row.reason,
        holder_pid=row.holder.pid if row.holder else None,
        operation=row.operation,
        template=row.template,
        parent=row.parent,
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
        root_allocated_bytes=allocated(machine.root_disk),
        work_allocated_bytes=allocated(machine.work_disk),
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


class DiskSizes:
    """Bytes that the layers of VMs' disks take on the host; those they share count for each.

    What lies below a top does not change, nor which layers those are unless the VM's row does: a
    list of a thousand VMs looks at their tops alone. Blocks: use it in a thread.
    """

    def __init__(self) -> None:
        self._below: dict[str, tuple[float, int]] = {}

    def of(self, row: VMRow) -> int:
        """What the two disks of one VM take."""
        disks = row.handles.disks
        tops = sum(_own_bytes(disk.path) for disk in (disks.root, disks.work))
        known, below = self._below.get(row.id, (0.0, 0))
        if known != row.updated_at:
            below = sum(allocated(Path(disk.path)) for disk in (disks.root, disks.work)) - tops
            self._below[row.id] = (row.updated_at, below)

        return tops + max(0, below)

    def forget_others(self, rows: Iterable[VMRow]) -> None:
        """Keep nothing of VMs that are not among `rows`."""
        present = {row.id for row in rows}
        for gone in self._below.keys() - present:
            self._below.pop(gone, None)


def _own_bytes(path: str) -> int:
    try:
        # stat(2): st_blocks counts units of 512 bytes.
        return Path(path).stat().st_blocks * 512
    except OSError:
        return 0
