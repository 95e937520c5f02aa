"""Memory that a guest does not need now, given back to the host."""

from __future__ import annotations

from collections.abc import Callable

from banger.api.sizes import MIB, format_size
from banger.channel.requests import GuestStats, Stats
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.pausing import ANSWER_SECONDS, require_running

# What a guest keeps for the seconds that this takes: so much, or this part of its memory.
KEPT, KEPT_PART = 16 * MIB, 64


async def reclaim(machine: Machine, tell: Callable[[str], None]) -> None:
    """Give the host what its guest has free or can drop, and `tell` how much that is.

    Raises CallerError(vm_not_running, unsupported).
    """
    require_running(machine.row)
    vmm = machine.require_vmm()
    patience = ANSWER_SECONDS
    stats = await machine.agent.ask(Stats(), GuestStats, patience=patience, timeout=patience)
    kept = max(KEPT, stats.memory_total // KEPT_PART)
    spare = max(0, stats.memory_available - kept)
    taken = await machine.site.hypervisor.reclaim(vmm, spare)
    tell(format_size(taken))
