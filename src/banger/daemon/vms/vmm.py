"""Which VMM and processor saved memory is of use to."""

from __future__ import annotations

import hashlib

from banger.api.errors import ErrorCode, PermanentError
from banger.daemon.vms.machine import Site
from banger.host.cpu import cpu_identity


async def vmm_identity(site: Site) -> str:
    """The VMM that VMs get now, on this processor: memory saved by another is of no use to it."""
    found = await site.hypervisor.capabilities()
    cpu = hashlib.sha256(cpu_identity().encode()).hexdigest()[:12]
    return f"{found.name} {found.version}, {found.accelerator}, processor {cpu}"


async def require_vmm(site: Site, saved_by: str, what: str, hint: str) -> None:
    """Raise PermanentError(restore_failed) unless memory that `saved_by` saved can be loaded."""
    present = await vmm_identity(site)
    if present != saved_by:
        raise PermanentError(
            ErrorCode.RESTORE_FAILED,
            f"the memory of {what} was saved by {saved_by}; this is {present}",
            hint=hint,
        )
