"""At daemon start: what the store says against what the host shows.

A row in a transient state belonged to an operation that died with the daemon before. Half-made VMs
are taken back, half-started ones are stopped, stops and deletions are finished. A VM that is said
to run does, is the same process, and was started in this boot of the host, or it is stopped.
"""

from __future__ import annotations

import asyncio
import logging

from banger.api.models import VMState
from banger.daemon.store.rows import VMRow
from banger.daemon.vms import lifecycle
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.watch import Watch

log = logging.getLogger(__name__)

HOST_REBOOTED = "the host rebooted"
INTERRUPTED = "the daemon was interrupted while starting it"


async def reconcile(site: Site, locks: Locks, watch: Watch) -> None:
    """Bring every row in line with the host. Slow repairs go on in the background, each under its
    VM's lock, so that the daemon serves at once and commands for those VMs wait their turn.
    """
    for row in await site.store.vms():
        watch.held(row)
        if row.state is VMState.STOPPED:
            continue

        if row.state is VMState.RUNNING and _still_runs(site, row):
            watch.running(row)
            continue

        log.info("VM %s is %s in the store: mending", row.name, row.state)
        watch.spawn(_mend_locked(site, locks, row))

    # One turn of the loop: every repair holds its lock before the first request is read.
    await asyncio.sleep(0)


def _still_runs(site: Site, row: VMRow) -> bool:
    handle = row.handles.vmm
    return (
        row.host_boot_id == site.host_boot_id
        and handle is not None
        and site.hypervisor.alive(handle)
    )


async def _mend_locked(site: Site, locks: Locks, row: VMRow) -> None:
    async with locks.of(row.id):
        await _mend(Machine(site, row))

    if row.state in (VMState.CREATING, VMState.DELETING):
        locks.forget(row.id)


async def _mend(machine: Machine) -> None:
    row = machine.row
    if row.state in (VMState.CREATING, VMState.DELETING):
        await lifecycle.discard(machine)
    elif row.state is VMState.STOPPING and _still_runs(machine.site, row):
        await lifecycle.stop(machine, _log_stage)
    else:
        await lifecycle.release(machine, _log_stage, reason=_why(machine.site, row))


def _why(site: Site, row: VMRow) -> str | None:
    if row.host_boot_id is not None and row.host_boot_id != site.host_boot_id:
        return HOST_REBOOTED

    if row.state is VMState.STARTING:
        return INTERRUPTED

    handle = row.handles.vmm
    if row.state is not VMState.RUNNING or handle is None:
        return None

    return f"{site.hypervisor.exit_reason(handle)}, while no daemon was running"


def _log_stage(stage: str) -> None:
    log.info("mending: %s", stage)
