"""The changes of state a VM goes through. Every method expects the caller to hold the VM's lock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from banger.api.errors import BangerError, OutcomeUnknown
from banger.api.models import VMState
from banger.daemon.vms.create import CREATE_STEPS
from banger.daemon.vms.guest import powered_off
from banger.daemon.vms.layers import NextDisks, settle
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.restore import Identity
from banger.daemon.vms.start import Ready
from banger.daemon.vms.steps import Hook, Step, backward, forward
from banger.host.files import remove_tree
from banger.host.threads import in_thread
from banger.hypervisor.base import ExitReason

Announce = Callable[[str], None]


def start_steps(run: Sequence[Step[Machine]]) -> tuple[Step[Machine], ...]:
    """From a VM that is stopped to one that has booted, where `run` leads to its VMM."""
    return (*run, Ready())


def go_on_steps(run: Sequence[Step[Machine]]) -> tuple[Step[Machine], ...]:
    """For VMs that exist and go on from memory: what they are is kept until they have."""
    return (NextDisks(), *run, Identity())


async def provision(machine: Machine, announce: Announce) -> None:
    """creating -> stopped: make what the VM keeps. On failure the row is all that is left."""
    hook = machine.site.hook
    await forward("create", CREATE_STEPS, machine, announce=announce, hook=hook)
    await machine.record(durable=False, state=VMState.STOPPED)


async def start(
    machine: Machine,
    announce: Announce,
    operation: str | None = None,
    *,
    label: str = "start",
) -> None:
    """stopped or suspended -> running: by booting, or by going on from memory.

    On failure the VM is again what it was, with the reason in its row.
    """
    if machine.row.state is VMState.RUNNING:
        return

    await machine.record(durable=False, state=VMState.STARTING, reason=None, operation=operation)
    try:
        steps = _steps(machine)
        await forward(label, steps, machine, announce=announce, hook=machine.site.hook)
    except OutcomeUnknown:
        # Something could not be taken back: the state stays what reconcile and stop know to mend.
        raise
    except BaseException as error:
        why = str(error) or "cancelled"
        await asyncio.shield(settle_down(machine, f"start failed: {why}"))
        raise

    await _keep(machine, VMState.RUNNING)


async def go_back(
    machine: Machine, announce: Announce, operation: str | None = None, *, label: str
) -> None:
    """stopped or suspended -> stopped, with the disks of the machine's moment."""
    hook = machine.site.hook
    await machine.record(operation=operation)
    try:
        await forward(label, (NextDisks(),), machine, announce=announce, hook=hook)
    except BaseException:
        await asyncio.shield(settle_down(machine, machine.row.reason))
        raise

    await _keep(machine, VMState.STOPPED)


async def stop(
    machine: Machine,
    announce: Announce,
    operation: str | None = None,
    *,
    reason: str | None = None,
) -> None:
    """Any state -> stopped: the guest syncs and powers off; one that does not is ended without it.

    A VM that is suspended gives its memory up. `reason` says why it does not run any more.
    """
    if machine.row.state is VMState.STOPPED:
        return

    await machine.record(state=VMState.STOPPING, operation=operation)
    await _forget_memory(machine)
    if machine.alive():
        announce("guest poweroff")
        await _unpause(machine)
        if await powered_off(machine.agent, machine.require_vmm()):
            await machine.record(durable=False, unclean=False)

    await release(machine, announce, reason=reason, hook=machine.site.hook)


async def release(
    machine: Machine,
    announce: Announce,
    *,
    reason: str | None = None,
    hook: Hook | None = None,
) -> None:
    """Any state -> stopped, or suspended if its memory is kept: take back what a running VM holds,
    VMM alive or not.
    """
    hook = hook or machine.site.hook
    await settle(machine)
    await machine.record(state=VMState.STOPPING)
    announce("clean up")
    await backward(machine.site.run_steps, machine, label="stop", hook=hook)
    await settle_down(machine, reason)


async def ended(machine: Machine, reason: ExitReason, *, note: str = "") -> None:
    """running or paused, the VMM gone -> stopped; or running again, if its guest has rebooted."""
    if reason in (ExitReason.GUEST_POWEROFF, ExitReason.GUEST_REBOOT):
        await machine.record(durable=False, unclean=False)

    await release(machine, _unannounced, reason=f"{reason}{note}")
    if reason is ExitReason.GUEST_REBOOT:
        await start(machine, _unannounced)


async def delete(machine: Machine, announce: Announce, operation: str | None = None) -> None:
    """Any state -> gone. The guest is not asked: nothing that it could still write is kept."""
    hook = machine.site.hook
    await machine.site.lingering.gone(machine.row.id)
    await machine.record(durable=False, state=VMState.DELETING, operation=operation)
    announce("delete")
    await backward(machine.site.run_steps, machine, label="delete", hook=hook)
    await backward(CREATE_STEPS, machine, label="delete", hook=hook)
    await machine.site.store.delete_vm(machine.row.id)
    machine.site.litter.set()


async def discard(machine: Machine) -> None:
    """Take back a creation that did not succeed: as `delete`, but unannounced and fault-free."""
    await backward(machine.site.run_steps, machine)
    await backward(CREATE_STEPS, machine)
    await machine.site.store.delete_vm(machine.row.id)


async def settle_down(machine: Machine, reason: str | None) -> None:
    """Record that the VM holds nothing that runs: it is stopped, or suspended with its memory."""
    handles = machine.row.handles
    if handles.memory is None:
        await in_thread(remove_tree, machine.suspended_memory)

    await machine.record(
        state=VMState.STOPPED if handles.memory is None else VMState.SUSPENDED,
        reason=reason,
        operation=None,
        started_at=None,
        guest_boot_id=None,
    )


def _unannounced(_stage: str) -> None:
    """For changes that nobody follows."""


def _steps(machine: Machine) -> Sequence[Step[Machine]]:
    run = machine.site.run_steps
    if machine.moment is not None:
        return go_on_steps(run)

    return start_steps(run) if machine.memory is None else (*run, Identity())


async def _keep(machine: Machine, state: VMState) -> None:
    """Record that the VM is in `state`, as its moment says if it has one; what was before goes."""
    handles, moment = machine.row.handles, machine.moment
    if moment is not None:
        handles = msgspec.structs.replace(
            handles, disks=moment.disks, next=None, memory=None, memory_vmm=""
        )

    # What it was before may only go when it is recorded for good that nobody needs it.
    durable = moment is not None
    await machine.record(
        durable=durable,
        state=state,
        operation=None,
        handles=handles,
        spec=machine.spec,
        # Disks of a moment at which a guest ran are as after a loss of power.
        unclean=machine.row.unclean or moment is not None,
    )
    if moment is not None:
        await in_thread(remove_tree, machine.suspended_memory)


async def _forget_memory(machine: Machine) -> None:
    await machine.record_handles(memory=None, memory_vmm="")
    await in_thread(remove_tree, machine.suspended_memory)


async def _unpause(machine: Machine) -> None:
    hypervisor, vmm = machine.site.hypervisor, machine.require_vmm()
    # A VMM that does not react is ended without its guest.
    with contextlib.suppress(BangerError):
        if await hypervisor.paused(vmm):
            await hypervisor.resume(vmm)
