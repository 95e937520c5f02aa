"""Going on from saved memory in place of booting: load it, and make the guest who it is to be."""

from __future__ import annotations

import secrets

from banger.daemon.vms.machine import Machine
from banger.daemon.vms.plan import guest_config
from banger.daemon.vms.waking import assume
from banger.guest.identity import identity_of

# A guest that has been loaded answers within 0.1 s; on a host that swaps, later.
IDENTITY_SECONDS = 60.0

# random(4): what the kernel's pool holds.
ENTROPY_BYTES = 32


class Identity:
    """Letting the guest go on, as this VM: nothing of its own runs before that is done."""

    name = "identity"

    async def do(self, machine: Machine) -> None:
        site = machine.site
        handle = machine.require_vmm()
        image = await site.images.by_id(machine.row.image_id)
        config = guest_config(machine, image.image, await site.client_key.public())
        if machine.moment is not None and machine.moment.in_place:
            # Its memory is of no use any more once it has written to the disks.
            await machine.record_handles(memory=None, memory_vmm="")

        await site.hypervisor.resume(handle)
        identity = identity_of(config, entropy=secrets.token_bytes(ENTROPY_BYTES))
        agent = site.agent(machine.run_dir)
        if machine.origin is not None:
            agent.mark_aligned(machine.origin.aligned)

        health = await assume(agent, identity, patience=IDENTITY_SECONDS, timeout=IDENTITY_SECONDS)
        await machine.record(guest_boot_id=health.boot_id)

    async def undo(self, machine: Machine) -> None:
        """Nothing: the guest's state goes with the VMM."""
