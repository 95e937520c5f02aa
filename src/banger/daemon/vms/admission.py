"""Whether this host can carry one more VM: its free memory, and what running VMs were promised."""

from __future__ import annotations

from banger.api.errors import ErrorCode, TransientError
from banger.api.models import VMState
from banger.daemon.vms.machine import Site
from banger.host.resources import check_memory

_HOLDING = (
    VMState.STARTING,
    VMState.RUNNING,
    VMState.PAUSED,
    VMState.SUSPENDING,
    VMState.STOPPING,
)


async def admit(site: Site, memory: int, *, vm_id: str | None = None, count: int = 1) -> None:
    """Raise insufficient_memory, invalid_size or host_ending unless a VM can start now.

    It has `memory` bytes. `vm_id` is that VM, when it exists already: what it holds itself is not
    counted against it. With `count` so many begin as one, sharing its memory: all are promised it,
    one has to be there.
    """
    if site.ending.is_set():
        raise TransientError(
            ErrorCode.HOST_ENDING,
            "the host is shutting down, so no VM starts",
            hint="start it when the host is up again",
        )

    committed = sum(
        row.spec.memory
        for row in await site.store.vms()
        if row.state in _HOLDING and row.id != vm_id and not row.standby
    )
    committed += (count - 1) * memory
    check_memory(memory, committed=committed, overcommit=site.config.limits.memory_overcommit)
