"""The changes of state a VM goes through. Every method expects the caller to hold the VM's lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from banger.api.errors import OutcomeUnknown
from banger.api.models import VMState
from banger.daemon.vms.create import CREATE_STEPS
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.start import START_STEPS
from banger.daemon.vms.steps import Hook, backward, forward
from banger.host.process import ProcessRef, on_exit
from banger.hypervisor.base import VMMHandle

# How long a guest may take to sync and power off before its VMM is ended without it.
POWEROFF_SECONDS = 30.0

# How long the guest's control port may take to accept the request.
REQUEST_SECONDS = 5.0

Announce = Callable[[str], None]


async def provision(machine: Machine, announce: Announce) -> None:
    """creating -> stopped: make what the VM keeps. On failure the row is all that is left."""
    hook = machine.site.hook
    await forward("create", CREATE_STEPS, machine, announce=announce, hook=hook)
    await machine.record(state=VMState.STOPPED)


async def start(machine: Machine, announce: Announce, operation: str | None = None) -> None:
    """stopped -> running. On failure the VM is stopped again, with the reason in its row."""
    if machine.row.state is VMState.RUNNING:
        return

    await machine.record(state=VMState.STARTING, reason=None, operation=operation)
    try:
        await forward("start", START_STEPS, machine, announce=announce, hook=machine.site.hook)
    except OutcomeUnknown:
        # Something could not be taken back: the state stays what reconcile and stop know to mend.
        raise
    except BaseException as error:
        why = str(error) or "cancelled"
        await asyncio.shield(_settle(machine, f"start failed: {why}"))
        raise

    await machine.record(state=VMState.RUNNING, operation=None)


async def stop(machine: Machine, announce: Announce, operation: str | None = None) -> None:
    """running -> stopped: the guest syncs and powers off; one that does not is ended without it."""
    if machine.row.state is VMState.STOPPED:
        return

    await machine.record(state=VMState.STOPPING, operation=operation)
    handle = machine.row.handles.vmm
    if handle is not None and machine.site.hypervisor.alive(handle):
        announce("guest poweroff")
        await _ask_to_power_off(machine, handle)

    await release(machine, announce, hook=machine.site.hook)


async def release(
    machine: Machine,
    announce: Announce,
    *,
    reason: str | None = None,
    hook: Hook | None = None,
) -> None:
    """Any state -> stopped: take back what a running VM holds, VMM alive or not."""
    hook = hook or machine.site.hook
    await machine.record(state=VMState.STOPPING)
    announce("clean up")
    await backward(START_STEPS, machine, label="stop", hook=hook)
    await _settle(machine, reason)


async def delete(machine: Machine, announce: Announce, operation: str | None = None) -> None:
    """Any state -> gone. The guest is not asked: nothing that it could still write is kept."""
    hook = machine.site.hook
    await machine.record(state=VMState.DELETING, operation=operation)
    announce("delete")
    await backward(START_STEPS, machine, label="delete", hook=hook)
    await backward(CREATE_STEPS, machine, label="delete", hook=hook)
    await machine.site.store.delete_vm(machine.row.id)


async def discard(machine: Machine) -> None:
    """Take back a creation that did not succeed: as `delete`, but unannounced and fault-free."""
    await backward(START_STEPS, machine)
    await backward(CREATE_STEPS, machine)
    await machine.site.store.delete_vm(machine.row.id)


async def _settle(machine: Machine, reason: str | None) -> None:
    await machine.record(
        state=VMState.STOPPED,
        reason=reason,
        operation=None,
        started_at=None,
        guest_boot_id=None,
    )


async def _ask_to_power_off(machine: Machine, handle: VMMHandle) -> None:
    gone = asyncio.Event()
    process = ProcessRef(pid=handle.pid, start_time=handle.start_time)
    unwatch = on_exit(process, gone.set)
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            await machine.site.hypervisor.guest_request(handle, "poweroff")

        async with asyncio.timeout(POWEROFF_SECONDS):
            await gone.wait()
    except (TimeoutError, OSError):
        # A guest that is wedged, or has no control service any more: the VMM is ended without it.
        return
    finally:
        unwatch()
