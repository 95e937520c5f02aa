"""Going back to a snapshot: fresh disks made of what it keeps, its memory, the shape it had."""

from __future__ import annotations

from pathlib import Path

import msgspec

from banger.api.models import VMSpec, VMState
from banger.daemon.operations import Progress
from banger.daemon.store.rows import SnapshotRow
from banger.daemon.vms import lifecycle
from banger.daemon.vms.layers import SERIALS, path_of
from banger.daemon.vms.machine import Machine, Moment
from banger.daemon.vms.vmm import require_vmm
from banger.host.threads import in_thread
from banger.hypervisor.base import MemoryImage
from banger.storage.layers import chain


async def go_back(
    machine: Machine, snapshot: SnapshotRow, progress: Progress, *, memory: bool
) -> None:
    """Make `machine` what `snapshot` is: running if that has memory, which is wanted, else stopped.

    What can be checked is, before what the VM is now is given up. When it cannot go on after that,
    it is stopped, with the disks it had. Raises PermanentError: restore_failed, state_corrupt, and
    whatever a start does.
    """
    site, vm = machine.site, machine.row
    kept = MemoryImage(directory=Path(snapshot.memory)) if memory and snapshot.memory else None
    if kept is not None:
        await require_vmm(
            site,
            snapshot.vmm,
            f"snapshot {snapshot.name}",
            hint="go back to its disks alone: "
            f"banger vm snapshot restore {vm.name} {snapshot.name} --disks-only",
        )

    for serial in SERIALS:
        await in_thread(chain, path_of(snapshot.disks, serial))

    if vm.state not in (VMState.STOPPED, VMState.SUSPENDED):
        progress.stage(f"end {vm.name}", "what it is now is given up")
        await lifecycle.release(machine, progress.stage, reason=f"to go back to {snapshot.name}")

    machine.moment = Moment(
        below=snapshot.disks,
        disks=site.moments.fresh(site.paths.disks),
        spec=_shaped(machine.row.spec, snapshot.spec),
        memory=kept,
    )
    if kept is None:
        await lifecycle.go_back(machine, progress.stage, progress.id, label="restore")
    else:
        await lifecycle.start(machine, progress.stage, progress.id, label="restore")


def _shaped(present: VMSpec, past: VMSpec) -> VMSpec:
    """What belongs to a moment comes back with it; what the host gives a VM stays as it is."""
    return msgspec.structs.replace(
        present,
        vcpus=past.vcpus,
        memory=past.memory,
        root_size=past.root_size,
        disk_size=past.disk_size,
    )
