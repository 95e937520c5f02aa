"""Moments of disks as copies: of the file a root device writes to, and of the work disk.

A copy shares its blocks where the file system can; elsewhere only what holds data is copied.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.daemon.store.rows import DiskFile, Layers
from banger.daemon.vms.layers import SERIALS, path_of
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.moments import Taking
from banger.host.resources import check_disk_beside_guests
from banger.host.threads import in_thread
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import FlushSnapshot
from banger.storage.base import DiskFormat
from banger.storage.cow import device_name
from banger.storage.files import copy_whole
from banger.storage.layers import layer_path

# stat(2) counts in these.
_SECTOR = 512


class Copied:
    """`Moments` of files that only their VM writes to, and that no other file depends on."""

    def __init__(self, ops: PrivilegedOps) -> None:
        self._ops = ops

    def check_room(self, state: Path, memory: int) -> None:
        """Firecracker writes all of a guest's memory, zeros too, and others write meanwhile."""
        check_disk_beside_guests(state, memory)

    def fresh(self, directory: Path) -> Layers:
        return Layers(root=_fresh(directory, "cow"), work=_fresh(directory, "raw"))

    async def plan(self, machine: Machine) -> Taking:
        return Taking(self.fresh(machine.site.paths.disks), None)

    async def prepare(self, machine: Machine, taking: Taking, directory: Path) -> None:
        """Write out what there is so far, so that little is left when the guest stands still."""
        if machine.row.handles.vmm is not None:
            await self._flush(machine)

    async def save(self, machine: Machine, taking: Taking, stream: Path) -> None:
        hypervisor, vmm = machine.site.hypervisor, machine.require_vmm()
        await hypervisor.save(vmm, stream, (), resume=False)
        try:
            await self._flush(machine)
            await self.keep(taking, machine)
        finally:
            await asyncio.shield(hypervisor.resume(vmm))

    async def keep(self, taking: Taking, machine: Machine) -> None:
        await self.renew(machine.row.handles.disks, taking.kept)

    async def shelve(self, disks: Layers, directory: Path) -> None:
        """Nothing: clones begin with copies of `disks`."""

    def origins(self, disks: Layers, directory: Path) -> tuple[Path, Path]:
        del directory
        return path_of(disks, "root"), path_of(disks, "work")

    async def clone(self, origin: Path, disk: Path) -> None:
        await in_thread(_copy, origin, disk)

    def awakened(self, disks: Layers, directory: Path) -> Layers:
        """The same: they may be large, and are written to from the moment the guest goes on."""
        del directory
        return disks

    async def renew(self, below: Layers, disks: Layers) -> None:
        for serial in SERIALS:
            await self.clone(path_of(below, serial), path_of(disks, serial))

    async def _flush(self, machine: Machine) -> None:
        """What the VMM wrote to the root device is in the file below it."""
        await self._ops.call(FlushSnapshot(name=device_name(machine.row.id)))


def _copy(origin: Path, disk: Path) -> None:
    """Raises PermanentError(insufficient_disk) before VMs that run would lack room."""
    check_disk_beside_guests(disk.parent, origin.stat().st_blocks * _SECTOR)
    copy_whole(origin, disk)


def _fresh(directory: Path, form: DiskFormat) -> DiskFile:
    return DiskFile(path=str(layer_path(directory, form)), format=form)
