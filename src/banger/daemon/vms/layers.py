"""The files of a VM's disks: which are its own, and whether it has gone over to others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from banger.api.errors import BangerError
from banger.api.models import VMState
from banger.daemon.store.rows import DiskFile, Layers
from banger.daemon.vms.machine import Machine

Serial = Literal["root", "work"]
SERIALS: tuple[Serial, Serial] = ("root", "work")


def file_of(layers: Layers, serial: Serial) -> DiskFile:
    """One of the two."""
    return layers.root if serial == "root" else layers.work


def path_of(layers: Layers, serial: Serial) -> Path:
    """Where one of the two is."""
    return Path(file_of(layers, serial).path)


async def settle(machine: Machine) -> None:
    """Decide for each disk whether its next layer is its top now, and drop the one that is not.

    The VMM knows, as long as it runs. A VM whose VMM has ended has the next one if that exists:
    the VMM may have written to it, and if not, it is empty. One that was not running when they were
    recorded has not begun to write to them.
    """
    upcoming = machine.row.handles.next
    if upcoming is None:
        return

    used = machine.row.handles.disks
    if machine.row.state in (VMState.RUNNING, VMState.PAUSED):
        root, work = [await _top(machine, serial, upcoming) for serial in SERIALS]
        used = Layers(root=root, work=work)

    await machine.record_handles(disks=used, next=None)
    _remove({upcoming.root, upcoming.work} - {used.root, used.work})


async def _top(machine: Machine, serial: Serial, upcoming: Layers) -> DiskFile:
    old, new = file_of(machine.row.handles.disks, serial), file_of(upcoming, serial)
    if machine.alive():
        try:
            top = await machine.site.hypervisor.top(machine.require_vmm(), serial)
        except BangerError:
            if machine.alive():
                raise
        else:
            return new if top.name == Path(new.path).name else old

    return new if _exists(new) else old


def _exists(file: DiskFile) -> bool:
    return Path(file.path).exists()


def _remove(files: Iterable[DiskFile]) -> None:
    for file in files:
        Path(file.path).unlink(missing_ok=True)


def remove_tops(machine: Machine, serial: Serial) -> None:
    """Remove what a VM writes to one of its disks: its top, and the next one."""
    handles = machine.row.handles
    for layers in (handles.next, handles.disks):
        if layers is not None:
            path_of(layers, serial).unlink(missing_ok=True)


class NextDisks:
    """Fresh disks for a VM that is to go on as what it, or a snapshot of it, once was."""

    name = "disks"

    async def do(self, machine: Machine) -> None:
        moment = machine.moment
        if moment is None or moment.in_place:
            return

        await machine.record_handles(next=moment.disks)
        await machine.site.moments.renew(moment.below, moment.disks)

    async def undo(self, machine: Machine) -> None:
        await settle(machine)
