"""Whether this host can carry one more VM: its free memory, and what running VMs were promised."""

from __future__ import annotations

from banger.api.models import VMState
from banger.daemon.vms.machine import Site
from banger.host.resources import check_memory

_HOLDING = (VMState.STARTING, VMState.RUNNING, VMState.STOPPING)


async def admit(site: Site, memory: int, *, vm_id: str | None = None) -> None:
    """Raise insufficient_memory or invalid_size unless a VM of `memory` bytes can start now.

    `vm_id` is that VM, when it exists already: what it holds itself is not counted against it.
    """
    committed = sum(
        row.spec.memory
        for row in await site.store.vms()
        if row.state in _HOLDING and row.id != vm_id
    )
    check_memory(memory, committed=committed, overcommit=site.config.limits.memory_overcommit)
