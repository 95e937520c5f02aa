"""A checkpoint: what a VM is at one moment, its disks and, if it runs, its memory.

The steps hold the VM up for as short as can be. Everything is recorded and made before its guest
stands still; what can wait is done when it runs again, without the VM's lock.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from banger.api.models import VMState
from banger.daemon.operations import Progress
from banger.daemon.store.rows import SnapshotRow
from banger.daemon.vms.layers import (
    SERIALS,
    path_of,
    settle,
)
from banger.daemon.vms.machine import Machine, Origin, Site
from banger.daemon.vms.moments import Taking
from banger.daemon.vms.pausing import freeze, mend, not_running, sync_guest, thaw, wake
from banger.daemon.vms.steps import Step, forward
from banger.daemon.vms.vmm import vmm_identity
from banger.host.files import remove_tree, sync, sync_tree
from banger.host.paths import ensure_private
from banger.host.threads import in_thread
from banger.hypervisor.base import MemoryImage


def directory_of(site: Site, row: SnapshotRow) -> Path:
    """What a snapshot keeps besides disks: its memory, and what clones may begin with."""
    return site.paths.snapshots / row.id


def origin_of(site: Site, row: SnapshotRow) -> Origin:
    """What new VMs begin as that go on from it."""
    root, work = site.moments.origins(row.disks, directory_of(site, row))
    memory = None if row.memory is None else MemoryImage(directory=Path(row.memory))
    return Origin(
        root=root,
        work=work,
        memory=memory,
        aligned=row.aligned,
    )


async def discard(site: Site, row: SnapshotRow) -> None:
    """Remove a snapshot, ready or not. Its disks are left to those who share them, or to gc."""
    await site.store.delete_snapshot(row.id)
    await in_thread(remove_tree, directory_of(site, row))
    site.litter.set()


class Checkpoint:
    """The subject of the steps: a VM, and the snapshot that is made of it, by `operation`.

    `still` is for how many seconds its guest stood still.
    """

    def __init__(
        self, machine: Machine, row: SnapshotRow, taking: Taking, operation: str | None
    ) -> None:
        self.machine = machine
        self.row = row
        self.taking = taking
        self.operation = operation
        self.still = 0.0
        self.still_since = 0.0

    @property
    def site(self) -> Site:
        return self.machine.site

    @property
    def directory(self) -> Path:
        return directory_of(self.site, self.row)

    @property
    def stream(self) -> Path:
        return self.directory / "stream"

    @property
    def memory(self) -> MemoryImage:
        return MemoryImage(directory=self.directory / "memory")


class Recorded:
    """The snapshot in the store, the disks its VM is about to go over to, if it is, and that its
    guest may be found standing still.
    """

    name = "record"

    async def do(self, checkpoint: Checkpoint) -> None:
        site, machine = checkpoint.site, checkpoint.machine
        await site.store.insert_snapshot(checkpoint.row)
        handles = msgspec.structs.replace(machine.row.handles, next=checkpoint.taking.upcoming)
        await machine.record(handles=handles, operation=checkpoint.operation)
        ensure_private(site.paths.snapshots)
        checkpoint.directory.mkdir(mode=0o700)

    async def undo(self, checkpoint: Checkpoint) -> None:
        await settle(checkpoint.machine)
        await checkpoint.machine.record(operation=None)
        await discard(checkpoint.site, checkpoint.row)


class Prepared:
    """All that can be done to its disks before the guest stands still."""

    name = "disks"

    async def do(self, checkpoint: Checkpoint) -> None:
        prepare = checkpoint.site.moments.prepare
        await prepare(checkpoint.machine, checkpoint.taking, checkpoint.directory)

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing: with the record goes what is not in use."""


class Synced:
    """What the guest has written is on its disks, which may have to do without its memory."""

    name = "sync"

    async def do(self, checkpoint: Checkpoint) -> None:
        await sync_guest(checkpoint.machine)

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing was made."""


class Frozen:
    """The guest's processes stand still: in a clone the agent is the first to go on."""

    name = "freeze"

    async def do(self, checkpoint: Checkpoint) -> None:
        checkpoint.still_since = time.monotonic()
        await freeze(checkpoint.machine)

    async def undo(self, checkpoint: Checkpoint) -> None:
        await thaw(checkpoint.machine)


class Kept:
    """The disks of a VM that is stopped."""

    name = "keep"

    async def do(self, checkpoint: Checkpoint) -> None:
        await checkpoint.site.moments.keep(checkpoint.taking, checkpoint.machine)

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing: with the record goes what is not in use."""


class Saved:
    """Memory in a stream, and disks, all of one moment."""

    name = "save"

    async def do(self, checkpoint: Checkpoint) -> None:
        machine = checkpoint.machine
        with machine.agent.held() as aligned:
            await machine.site.moments.save(machine, checkpoint.taking, checkpoint.stream)

        checkpoint.row = msgspec.structs.replace(checkpoint.row, aligned=aligned)

    async def undo(self, checkpoint: Checkpoint) -> None:
        await mend(checkpoint.machine)


class Thawed:
    """The guest goes on, its clock set."""

    name = "thaw"

    async def do(self, checkpoint: Checkpoint) -> None:
        await wake(checkpoint.machine)
        checkpoint.still = time.monotonic() - checkpoint.still_since

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing: it goes on."""


class Adopted:
    """The row says what is so already: what it was to go over to are the VM's disks."""

    name = "adopt"

    async def do(self, checkpoint: Checkpoint) -> None:
        handles, upcoming = checkpoint.machine.row.handles, checkpoint.taking.upcoming
        disks = handles.disks if upcoming is None else upcoming
        handles = msgspec.structs.replace(handles, disks=disks, next=None)
        await checkpoint.machine.record(handles=handles, operation=None)

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing: the VM has those disks whatever becomes of the snapshot."""


class Converted:
    """The memory as a clone can map it."""

    name = "keep memory"

    async def do(self, checkpoint: Checkpoint) -> None:
        await checkpoint.site.hypervisor.convert(checkpoint.stream, checkpoint.memory)
        checkpoint.stream.unlink()

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing: all of it lies in the snapshot's directory."""


class Durable:
    """All of it on the disk before the store says so."""

    name = "sync to disk"

    async def do(self, checkpoint: Checkpoint) -> None:
        if checkpoint.row.memory is not None:
            await in_thread(sync_tree, checkpoint.memory.directory)

        for serial in SERIALS:
            await in_thread(sync, path_of(checkpoint.row.disks, serial))

        await in_thread(sync, checkpoint.site.paths.disks)
        await in_thread(sync_tree, checkpoint.directory)

    async def undo(self, checkpoint: Checkpoint) -> None:
        """Nothing was made."""


class Ready:
    """The snapshot can be used."""

    name = "ready"

    async def do(self, checkpoint: Checkpoint) -> None:
        checkpoint.row = msgspec.structs.replace(checkpoint.row, ready=True)
        await checkpoint.site.store.save_snapshot(checkpoint.row)

    async def undo(self, checkpoint: Checkpoint) -> None:
        await discard(checkpoint.site, checkpoint.row)


# With the VM's lock: of a guest that runs, and of one that does not.
LIVE_STEPS: tuple[Step[Checkpoint], ...] = (
    Recorded(),
    Prepared(),
    Frozen(),
    Saved(),
    Thawed(),
    Adopted(),
)
# For what is kept, the guest first writes what it has not written yet.
LASTING_STEPS: tuple[Step[Checkpoint], ...] = (Synced(), *LIVE_STEPS)
STILL_STEPS: tuple[Step[Checkpoint], ...] = (Recorded(), Prepared(), Kept(), Adopted())

# Without it: what keeps the memory, and what keeps the snapshot.
MEMORY_STEPS: tuple[Step[Checkpoint], ...] = (Converted(),)
KEEP_STEPS: tuple[Step[Checkpoint], ...] = (Durable(), Ready())


async def begin(
    machine: Machine,
    operation: str | None,
    *,
    name: str | None = None,
    children: tuple[str, ...] = (),
) -> Checkpoint:
    """A checkpoint of `machine` that is to be made, with `name` as its snapshot.

    Raises CallerError(vm_not_running) for one that is neither running nor stopped, PermanentError
    (insufficient_disk).
    """
    site, vm = machine.site, machine.row
    if vm.state not in (VMState.RUNNING, VMState.STOPPED):
        raise not_running(vm)

    runs = vm.state is VMState.RUNNING
    site.moments.check_room(site.paths.state, vm.spec.memory if runs else 0)
    taking = await site.moments.plan(machine)
    snapshot_id = secrets.token_hex(6)
    memory = site.paths.snapshots / snapshot_id / "memory"
    row = SnapshotRow(
        id=snapshot_id,
        vm_id=vm.id,
        name=name,
        spec=vm.spec,
        image_id=vm.image_id,
        kernel_id=vm.kernel_id,
        disks=taking.kept,
        created_at=time.time(),
        memory=str(memory) if runs else None,
        vmm=await vmm_identity(site) if runs else "",
        children=children,
    )
    return Checkpoint(machine, row, taking, operation)


async def go(
    checkpoint: Checkpoint, steps: Sequence[Step[Checkpoint]], label: str, progress: Progress
) -> None:
    """Do `steps`; on failure the VM goes on as it was, and nothing of the checkpoint is left."""
    hook = checkpoint.site.hook
    await forward(label, steps, checkpoint, announce=progress.stage, hook=hook)
