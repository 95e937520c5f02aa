"""Guests that stand still for a while: on request, or for the moment in which they are saved."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets

from banger.api.errors import BangerError, CallerError, ErrorCode, TransientError
from banger.api.models import VMState
from banger.channel.requests import Done, Freeze, Identity, Sync, Thaw
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.layers import settle
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.restore import ENTROPY_BYTES
from banger.daemon.vms.waking import assume

log = logging.getLogger(__name__)

# A guest that the daemon has frozen and forgotten goes on by itself after this.
FREEZE_SECONDS = 30.0

# A process that waits for another, which is frozen already, in a way that nothing interrupts, does
# not freeze: while a guest boots one waits for a mount. A moment later it will.
FREEZE_PAUSES = (0.1, 0.3, 1.0, 3.0, None)

# How long a guest that runs may take to greet, and to answer.
ANSWER_SECONDS = 10.0

# How long what a guest has not written to its disks yet may take to get there.
SYNC_SECONDS = 60.0


def not_running(row: VMRow) -> CallerError:
    """The error for what only a running VM can do, with what to do about it."""
    why = f" ({row.reason})" if row.reason else ""
    verb = "resume" if row.state is VMState.PAUSED else "start"
    return CallerError(
        ErrorCode.VM_NOT_RUNNING,
        f"VM {row.name} is {row.state}{why}",
        hint=f"{verb} it: banger vm {verb} {row.name}",
    )


def require_running(row: VMRow) -> VMRow:
    """`row`, if it is that of a running VM. Raises CallerError(vm_not_running)."""
    if row.state is VMState.RUNNING:
        return row

    raise not_running(row)


async def pause(machine: Machine, operation: str | None = None) -> None:
    """running -> paused. Raises CallerError(vm_not_running)."""
    if machine.row.state is VMState.PAUSED:
        return

    require_running(machine.row)
    await machine.record(operation=operation)
    try:
        await machine.site.hypervisor.pause(machine.require_vmm())
    except BaseException:
        await mend(machine)
        raise

    await machine.record(state=VMState.PAUSED, operation=None)


async def resume(machine: Machine, operation: str | None = None) -> None:
    """paused -> running, the guest's clock set. Raises CallerError(vm_not_running)."""
    if machine.row.state is VMState.RUNNING:
        return

    if machine.row.state is not VMState.PAUSED:
        raise not_running(machine.row)

    await machine.record(operation=operation)
    try:
        await machine.site.hypervisor.resume(machine.require_vmm())
    except BaseException:
        await mend(machine)
        raise

    await machine.record(state=VMState.RUNNING, operation=None, reason=None)
    try:
        await wake(machine)
    except BangerError as error:
        log.warning("VM %s goes on with a clock that is late: %s", machine.row.name, error)


async def sync_guest(machine: Machine) -> None:
    """Have a guest write to its disks what it has not written yet. Raises what `ask` does."""
    await machine.agent.ask(Sync(), Done, patience=ANSWER_SECONDS, timeout=SYNC_SECONDS)


async def freeze(machine: Machine, *, seconds: float = FREEZE_SECONDS) -> None:
    """Have all processes of a guest stand still, so that its agent is the first to go on.

    After `seconds` they go on by themselves. Raises TransientError when its agent does not do it:
    nothing is frozen then.
    """
    for pause in FREEZE_PAUSES:
        try:
            await _freeze(machine, seconds)
        except BangerError as error:
            await thaw(machine)
            if error.code is ErrorCode.AGENT_FAILED and pause is not None:
                await asyncio.sleep(pause)
                continue

            raise TransientError(
                error.code,
                f"the agent of {machine.row.name} cannot hold its processes: {error.message}",
                hint=f"see how its guest is: banger vm stats {machine.row.name}; or stop it first",
            ) from error

        return


async def _freeze(machine: Machine, seconds: float) -> None:
    request = Freeze(processes=True, timeout=seconds)
    await machine.agent.ask(request, Done, patience=ANSWER_SECONDS, timeout=ANSWER_SECONDS)


async def wake(machine: Machine) -> None:
    """Set the clock of a guest that stood still, stir its entropy, and thaw its processes."""
    identity = Identity(entropy=secrets.token_hex(ENTROPY_BYTES))
    await assume(machine.agent, identity, patience=ANSWER_SECONDS, timeout=ANSWER_SECONDS)


async def thaw(machine: Machine) -> None:
    """Thaw a guest's processes, as far as its agent can; it does so itself after a while."""
    if not machine.alive():
        return

    with contextlib.suppress(BangerError):
        await machine.agent.ask(Thaw(), Done, patience=ANSWER_SECONDS, timeout=ANSWER_SECONDS)


async def mend(machine: Machine) -> None:
    """Bring a running or paused VM in line with its row after something that was cut short."""
    await settle(machine)
    if machine.alive():
        await _stand_or_go(machine)

    await machine.record(operation=None)


async def _stand_or_go(machine: Machine) -> None:
    hypervisor, vmm = machine.site.hypervisor, machine.require_vmm()
    if machine.row.state is VMState.PAUSED:
        await hypervisor.pause(vmm)
        return

    if await hypervisor.paused(vmm):
        await hypervisor.resume(vmm)

    await thaw(machine)
