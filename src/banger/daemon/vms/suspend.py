"""Suspending: what a VM's memory is goes into files, and the VM ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from banger.api.models import VMState
from banger.daemon.vms import lifecycle
from banger.daemon.vms.machine import Machine, Moment
from banger.daemon.vms.pausing import freeze, mend, require_running, sync_guest, thaw
from banger.daemon.vms.steps import Step, backward, forward
from banger.daemon.vms.vmm import require_vmm, vmm_identity
from banger.host.files import remove_tree, sync_tree
from banger.host.threads import in_thread
from banger.hypervisor.base import MemoryImage


class Frozen:
    """The guest's processes stand still: the agent is the first to go on later."""

    name = "freeze"

    async def do(self, machine: Machine) -> None:
        await freeze(machine)

    async def undo(self, machine: Machine) -> None:
        await thaw(machine)


class Synced:
    """What the guest has written is on its disks, should its memory be of no use one day."""

    name = "sync"

    async def do(self, machine: Machine) -> None:
        await sync_guest(machine)

    async def undo(self, machine: Machine) -> None:
        """Nothing was made."""


class Saved:
    """The guest stands still, and what it is is in a stream."""

    name = "save"

    async def do(self, machine: Machine) -> None:
        stream = _stream(machine)
        stream.unlink(missing_ok=True)
        vmm = machine.require_vmm()
        await machine.site.hypervisor.save(vmm, stream, (), resume=False)

    async def undo(self, machine: Machine) -> None:
        _stream(machine).unlink(missing_ok=True)
        if machine.alive():
            await machine.site.hypervisor.resume(machine.require_vmm())


class Converted:
    """Its memory as a start can map it, on disk for good."""

    name = "keep memory"

    async def do(self, machine: Machine) -> None:
        out = MemoryImage(directory=machine.suspended_memory)
        await in_thread(remove_tree, out.directory)
        await machine.site.hypervisor.convert(_stream(machine), out)
        await in_thread(sync_tree, out.directory)
        _stream(machine).unlink()

    async def undo(self, machine: Machine) -> None:
        await in_thread(remove_tree, machine.suspended_memory)


SUSPEND_STEPS: tuple[Step[Machine], ...] = (Synced(), Frozen(), Saved(), Converted())


async def suspend(
    machine: Machine, announce: Callable[[str], None], operation: str | None = None
) -> None:
    """running -> suspended. On failure the VM runs on.

    Raises CallerError(vm_not_running), PermanentError(insufficient_disk).
    """
    if machine.row.state is VMState.SUSPENDED:
        return

    require_running(machine.row)
    machine.site.moments.check_room(machine.site.paths.state, machine.spec.memory)
    saved_by = await vmm_identity(machine.site)
    await machine.record(state=VMState.SUSPENDING, operation=operation)
    hook = machine.site.hook
    try:
        await forward("suspend", SUSPEND_STEPS, machine, announce=announce, hook=hook)
    except BaseException:
        await asyncio.shield(_run_on(machine))
        raise

    await machine.record_handles(memory=str(machine.suspended_memory), memory_vmm=saved_by)
    await finish(machine, announce)


async def finish(machine: Machine, announce: Callable[[str], None]) -> None:
    """suspending, the memory kept -> suspended: end the VMM and take back what it held."""
    announce("end")
    await backward(machine.site.run_steps, machine, label="suspend", hook=machine.site.hook)
    await lifecycle.settle_down(machine, None)


async def go_back(machine: Machine) -> None:
    """suspending, cut short -> running: as if it had not begun."""
    await backward(SUSPEND_STEPS, machine)
    await _run_on(machine)


async def awakening(machine: Machine) -> Moment | None:
    """What a VM goes on as when it is started; None for one that is not suspended.

    Raises PermanentError(restore_failed) when its memory is of no use to the VMM there is now.
    """
    handles = machine.row.handles
    if handles.memory is None:
        return None

    await require_vmm(
        machine.site,
        handles.memory_vmm,
        f"VM {machine.row.name}",
        hint=f"give that memory up and keep the disks: banger vm stop {machine.row.name}",
    )
    return Moment(
        below=handles.disks,
        disks=machine.site.moments.awakened(handles.disks, machine.site.paths.disks),
        spec=machine.row.spec,
        memory=MemoryImage(directory=Path(handles.memory)),
    )


async def _run_on(machine: Machine) -> None:
    # One whose VMM has ended is seen to by whoever watches it.
    await machine.record(state=VMState.RUNNING)
    await mend(machine)


def _stream(machine: Machine) -> Path:
    return machine.vm_dir / "stream"
