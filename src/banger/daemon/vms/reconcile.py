"""At daemon start: what the store says against what the host shows.

A row in a transient state belonged to an operation that died with the daemon before. Half-made VMs
are taken back, half-started ones are stopped, stops and deletions are finished. A VM that is said
to run does, is the same process, and was started in this boot of the host, or it is stopped. What
was to be saved but was not goes on.
"""

from __future__ import annotations

import asyncio
import logging

from banger.api.models import VMState
from banger.daemon.store.rows import VMRow
from banger.daemon.vms import lifecycle
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.pausing import mend
from banger.daemon.vms.suspend import finish, go_back
from banger.daemon.vms.watch import Watch
from banger.hypervisor.base import ExitReason

log = logging.getLogger(__name__)

HOST_REBOOTED = "the host rebooted"
_WITH_VMM = (VMState.RUNNING, VMState.PAUSED)
INTERRUPTED = "the daemon was interrupted while starting it"


async def reconcile(site: Site, locks: Locks, watch: Watch) -> None:
    """Bring every row in line with the host. Slow repairs go on in the background, each under its
    VM's lock, so that the daemon serves at once and commands for those VMs wait their turn.
    """
    for row in await site.store.vms():
        watch.held(row)
        machine = Machine(site, row)
        runs = row.state in _WITH_VMM and machine.alive()
        if runs:
            watch.running(row)

        if _is_settled(row, runs=runs):
            continue

        log.info("VM %s is %s in the store: mending", row.name, row.state)
        watch.spawn(_mend_locked(machine, locks, watch))

    # One turn of the loop: every repair holds its lock before the first request is read.
    await asyncio.sleep(0)


def _is_settled(row: VMRow, *, runs: bool) -> bool:
    """Whether nothing of it was cut short: then there is nothing to mend."""
    if row.standby:
        return False

    lasting = runs or row.state in (VMState.STOPPED, VMState.SUSPENDED)
    return lasting and row.operation is None and row.handles.next is None


async def _mend_locked(machine: Machine, locks: Locks, watch: Watch) -> None:
    row = machine.row
    async with locks.of(row.id):
        await _mend(machine, watch)

    if row.standby or row.state in (VMState.CREATING, VMState.DELETING):
        watch.forget(row.id)


async def _mend(machine: Machine, watch: Watch) -> None:
    row, alive = machine.row, machine.alive()
    if row.standby or row.state in (VMState.CREATING, VMState.DELETING):
        await lifecycle.discard(machine)
    elif row.state in (VMState.STOPPED, VMState.SUSPENDED) or (row.state in _WITH_VMM and alive):
        await mend(machine)
    elif row.state is VMState.SUSPENDING and row.handles.memory is not None:
        await finish(machine, _log_stage)
    elif row.state is VMState.SUSPENDING and alive:
        await go_back(machine)
        watch.running(machine.row)
    elif row.state is VMState.STOPPING and alive:
        await lifecycle.stop(machine, _log_stage)
    elif (reason := _end_of(machine.site, row)) is not None:
        try:
            await lifecycle.ended(machine, reason, note=", while no daemon was running")
        finally:
            watch.running(machine.row)
    else:
        await lifecycle.release(machine, _log_stage, reason=_why(machine.site, row))


def _why(site: Site, row: VMRow) -> str | None:
    if row.host_boot_id is not None and row.host_boot_id != site.host_boot_id:
        return HOST_REBOOTED

    return INTERRUPTED if row.state is VMState.STARTING else None


def _end_of(site: Site, row: VMRow) -> ExitReason | None:
    """Why the VMM of a VM that ran in this boot of the host has ended."""
    ran = row.state in (*_WITH_VMM, VMState.SUSPENDING) and row.host_boot_id == site.host_boot_id
    handle = row.handles.vmm
    return site.hypervisor.exit_reason(handle) if ran and handle is not None else None


def _log_stage(stage: str) -> None:
    log.info("mending: %s", stage)
