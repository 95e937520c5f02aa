"""Moments of disks as layers: what was written so far is shared, everybody goes on above it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from banger.api.sizes import MIB
from banger.daemon.store.rows import DiskFile, Layers
from banger.daemon.vms.layers import SERIALS, Serial, file_of, path_of
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.moments import Taking
from banger.daemon.vms.plan import disk_of
from banger.host.resources import check_disk
from banger.host.threads import in_thread
from banger.storage.base import LayeredDisks
from banger.storage.layers import MAX_DEPTH, chain, is_layer, layer_path

# Room on the state directory's file system below which no moment is begun.
ROOM = 64 * MIB


class Layered:
    """`Moments` of qcow2 overlays. Clones begin with copies of empty ones: no program is run."""

    def __init__(self, disks: LayeredDisks) -> None:
        self._disks = disks

    def check_room(self, state: Path, memory: int) -> None:
        del memory
        check_disk(state, ROOM)

    def fresh(self, directory: Path) -> Layers:
        return Layers(root=_fresh(directory), work=_fresh(directory))

    async def plan(self, machine: Machine) -> Taking:
        """The layers there are, once they are fit to be shared, and new ones above them."""
        await _move_in(machine)
        for serial in SERIALS:
            await self._bound(machine, serial)

        return Taking(machine.row.handles.disks, self.fresh(machine.site.paths.disks))

    async def prepare(self, machine: Machine, taking: Taking, directory: Path) -> None:
        """Make the layers that are written from then on. Being empty, copies of them are clones'
        first.
        """
        upcoming = _upcoming(taking)
        await self.renew(taking.kept, upcoming)
        copies = self.origins(taking.kept, directory)
        for serial, copy in zip(SERIALS, copies, strict=True):
            await in_thread(self._disks.copy_overlay, path_of(upcoming, serial), copy)

    async def save(self, machine: Machine, taking: Taking, stream: Path) -> None:
        """The VMM goes over to the new layers in that moment."""
        upcoming, vm_id = _upcoming(taking), machine.row.id
        overlays = [disk_of(serial, file_of(upcoming, serial), vm_id) for serial in SERIALS]
        vmm = machine.require_vmm()
        await machine.site.hypervisor.save(vmm, stream, overlays, resume=True)

    async def keep(self, taking: Taking, machine: Machine) -> None:
        """Nothing: they are kept by going over to the new ones."""

    async def shelve(self, disks: Layers, directory: Path) -> None:
        for serial, empty in zip(SERIALS, self.origins(disks, directory), strict=True):
            await self._disks.overlay(path_of(disks, serial), empty)

    def origins(self, disks: Layers, directory: Path) -> tuple[Path, Path]:
        """Empty overlays of `disks` in `directory`."""
        del disks
        return directory / "root.qcow2", directory / "work.qcow2"

    async def clone(self, origin: Path, disk: Path) -> None:
        await in_thread(self._disks.copy_overlay, origin, disk)

    def awakened(self, disks: Layers, directory: Path) -> Layers:
        """Fresh layers: an attempt that fails has written to nothing that is kept."""
        del disks
        return self.fresh(directory)

    async def renew(self, below: Layers, disks: Layers) -> None:
        overlay = self._disks.overlay
        made = [overlay(path_of(below, serial), path_of(disks, serial)) for serial in SERIALS]
        for outcome in await asyncio.gather(*made, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _bound(self, machine: Machine, serial: Serial) -> None:
        """Have room for one more layer."""
        top = path_of(machine.row.handles.disks, serial)
        members = await in_thread(chain, top)
        if len(members) < MAX_DEPTH:
            return

        if machine.row.handles.vmm is not None:
            await machine.site.hypervisor.flatten(machine.require_vmm(), serial, members[-1])
        else:
            await self._disks.flatten(top, members[-1])


def _fresh(directory: Path) -> DiskFile:
    return DiskFile(path=str(layer_path(directory, "qcow2")), format="qcow2")


def _upcoming(taking: Taking) -> Layers:
    if taking.upcoming is None:
        raise ValueError("layers are kept by going over to others")

    return taking.upcoming


async def _move_in(machine: Machine) -> None:
    """Have the disks among the layers: earlier versions had them in the VM's directory."""
    old = machine.row.handles.disks
    new = Layers(root=_among_layers(machine, old.root), work=_among_layers(machine, old.work))
    if new == old:
        return

    for serial in SERIALS:
        if path_of(old, serial) != path_of(new, serial):
            os.link(path_of(old, serial), path_of(new, serial))

    await machine.record_handles(disks=new)
    for serial in SERIALS:
        if path_of(old, serial) != path_of(new, serial):
            path_of(old, serial).unlink()


def _among_layers(machine: Machine, disk: DiskFile) -> DiskFile:
    if is_layer(Path(disk.path)):
        return disk

    path = layer_path(machine.site.paths.disks, disk.format)
    return DiskFile(path=str(path), format=disk.format)
