"""What the daemon wants of a guest itself: that it is up, which boot it is in, and that it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from banger.api.errors import (
    BangerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.api.sizes import MIB
from banger.channel.requests import Done, GuestHealth, Health, PowerOff
from banger.daemon.vms.machine import Agent, Machine
from banger.host.files import MAKE_ROOM
from banger.host.process import ProcessRef, on_exit
from banger.host.resources import free_bytes
from banger.hypervisor.base import VMMHandle

# Software emulation on a busy two-core host boots in 5 to 60 s; what takes longer has gone wrong.
BOOT_SECONDS = 180.0

# How long a guest may take to sync and power off before its VMM is ended without it.
POWEROFF_SECONDS = 30.0

# How long the agent may take to greet when the guest is to end.
REQUEST_SECONDS = 5.0

# With less free than this a guest that writes is held up by its VMM until there is more.
_STALLED_BELOW = MIB

# A greeting is lost when the guest resets in the moment it arrives: then another one is tried.
_GREETING_SECONDS = 60.0

_RETRY_SECONDS = 0.05

# The least time from one boot to the next that a guest can make the daemon work for.
_PACE_SECONDS = 1.0

# How often a guest that does not answer is asked which boot it is in: at first, and at last.
_FIRST_PAUSE, _LAST_PAUSE = 5.0, 300.0


async def booted(machine: Machine) -> GuestHealth:
    """Wait until the guest is up: its agent answers, which it does not before ssh's port is open.

    Raises PermanentError: launch_failed when the VMM ends first, guest_timeout.
    """
    handle = machine.row.handles.vmm
    if handle is None:
        raise PermanentError(ErrorCode.LAUNCH_FAILED, f"VM {machine.row.name} has no VMM")

    # Nobody has spoken to it yet, so there is one greeting, which waits for the guest to come up.
    agent = machine.site.agent(machine.run_dir)
    agent.mark_aligned()
    deadline = time.monotonic() + BOOT_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        patience = min(left, _GREETING_SECONDS)
        try:
            return await agent.ask(Health(), GuestHealth, patience=patience, timeout=left)
        except OutcomeUnknown:
            # The guest has begun anew, or the VMM ended: the next attempt tells.
            await asyncio.sleep(_RETRY_SECONDS)
        except TransientError as error:
            if error.code is ErrorCode.AGENT_UNREACHABLE:
                raise _ended_early(machine, handle) from None

    raise _never_answered(machine)


async def powered_off(agent: Agent, handle: VMMHandle) -> bool:
    """Have the guest write everything to its disks and end; whether its VMM has ended with it."""
    gone = asyncio.Event()
    unwatch = on_exit(ProcessRef(pid=handle.pid, start_time=handle.start_time), gone.set)
    try:
        async with asyncio.timeout(POWEROFF_SECONDS):
            await _ask_to_power_off(agent)
            await gone.wait()
    except (TimeoutError, BangerError, OSError):
        # A guest that is wedged, or has no agent any more.
        return False
    finally:
        unwatch()

    return True


async def _ask_to_power_off(agent: Agent) -> None:
    try:
        await agent.ask(PowerOff(), Done, patience=REQUEST_SECONDS, timeout=POWEROFF_SECONDS)
    except OutcomeUnknown:
        # The VMM may end before the answer has come out of it.
        return


async def follow_boots(
    agent: Agent, boot_id: str | None, tell: Callable[[str], Awaitable[None]]
) -> None:
    """Call `tell` with the boot id of each boot of the guest after `boot_id`, until its VMM ends.

    It holds a stream on which the agent will answer in another boot only. Until a reboot, which
    ends the stream, nothing happens.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            health = await agent.ask(Health(other_than=boot_id), GuestHealth, timeout=None)
            if health.boot_id == boot_id:
                # An agent that does not know what is asked of it.
                return

            boot_id, pause = health.boot_id, _FIRST_PAUSE
            await tell(boot_id)
            await asyncio.sleep(_PACE_SECONDS)
        except OutcomeUnknown:
            await asyncio.sleep(_PACE_SECONDS)
        except TransientError as error:
            if error.code is ErrorCode.AGENT_UNREACHABLE:
                return

            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)


def _ended_early(machine: Machine, handle: VMMHandle) -> PermanentError:
    reason = machine.site.hypervisor.exit_reason(handle)
    return PermanentError(
        ErrorCode.LAUNCH_FAILED,
        f"the VMM ended before its guest was up: {reason}",
        hint=f"its console may say why: banger vm logs {machine.row.name}",
    )


def _never_answered(machine: Machine) -> PermanentError:
    state = machine.site.paths.state
    if free_bytes(state) < _STALLED_BELOW:
        return PermanentError(
            ErrorCode.INSUFFICIENT_DISK,
            f"VM {machine.row.name} did not come up: no space left in {state}",
            hint=f"its guest waits for room. {MAKE_ROOM}",
        )

    return PermanentError(
        ErrorCode.GUEST_TIMEOUT,
        f"VM {machine.row.name} did not answer within {BOOT_SECONDS:.0f} s of its start",
        hint=f"its console may say why: banger vm logs {machine.row.name}",
    )
