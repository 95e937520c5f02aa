"""What a VM has while it runs: its run directory, its initrd, its VMM process."""

from __future__ import annotations

import time

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.daemon.vms.admission import admit
from banger.daemon.vms.guest import booted
from banger.daemon.vms.leases import move_ssh_port, require_free
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.plan import guest_config, launch_plan
from banger.guest.config import vm_archive
from banger.guest.initramfs import write_initrd
from banger.host.files import remove_tree
from banger.host.paths import ensure_private
from banger.host.threads import in_thread
from banger.hypervisor.base import VMMHandle
from banger.network.ports import port_free

# A VMM that does not react to its monitor within this many seconds is killed.
TERMINATE_SECONDS = 5.0

# Other users' daemons choose from the same ports, and those who create VMs at the same time look
# at the same port at the same time.
LAUNCHES = 10


class RunDirectory:
    """The directory of the VM's sockets; what an earlier life left in it is of no use."""

    name = "run directory"

    async def do(self, machine: Machine) -> None:
        run_dir = machine.run_dir
        await in_thread(remove_tree, run_dir)
        ensure_private(run_dir)

    async def undo(self, machine: Machine) -> None:
        await in_thread(remove_tree, machine.run_dir)


class Ports:
    """The host ports. The ssh port is banger's choice, so a taken one is exchanged for another."""

    name = "ports"

    async def do(self, machine: Machine) -> None:
        for forward in machine.row.spec.ports:
            require_free(forward)

        if not port_free("127.0.0.1", machine.row.handles.ssh_port, "tcp"):
            await move_ssh_port(machine)

    async def undo(self, machine: Machine) -> None:
        """Nothing: leases belong to the VM for as long as it exists."""


class Initrd:
    """The shared initial RAM file system with this VM's own files joined to it."""

    name = "initrd"

    async def do(self, machine: Machine) -> None:
        shared = await machine.site.images.initramfs(machine.row.kernel_id)
        image = await machine.site.images.by_id(machine.row.image_id)
        key = await machine.site.client_key.public()
        config = guest_config(machine, image.image, key)
        if machine.row.standby:
            # This is what its guest is told when it reboots, and by then its name is another.
            config = msgspec.structs.replace(config, hostname="")

        await in_thread(write_initrd, shared, vm_archive(config), machine.initrd)

    async def undo(self, machine: Machine) -> None:
        machine.initrd.unlink(missing_ok=True)


class Launch:
    """The VMM process. The intent is recorded first, so a crash in between is found again."""

    name = "launch"

    async def do(self, machine: Machine) -> None:
        site = machine.site
        await admit(site, machine.spec.memory, vm_id=machine.row.id)
        await machine.record_handles(durable=False, launching=True, vmm=None)
        handle = await self._launched(machine)
        handles = msgspec.structs.replace(machine.row.handles, launching=False, vmm=handle)
        await machine.record(
            durable=False,
            handles=handles,
            host_boot_id=site.host_boot_id,
            started_at=time.time(),
            unclean=True,
        )

    async def _launched(self, machine: Machine) -> VMMHandle:
        """The VMM. The step `ports` only looked: what was free then may be another's by now."""
        site = machine.site
        kernel = await site.images.kernel_files(machine.row.kernel_id)
        emulated = (await site.hypervisor.capabilities()).accelerator == "tcg"
        for _attempt in range(LAUNCHES - 1):
            try:
                return await site.hypervisor.launch(launch_plan(machine, kernel, emulated=emulated))
            except CallerError as error:
                if error.code is not ErrorCode.PORT_TAKEN:
                    raise

            await Ports().do(machine)

        return await site.hypervisor.launch(launch_plan(machine, kernel, emulated=emulated))

    async def undo(self, machine: Machine) -> None:
        hypervisor = machine.site.hypervisor
        handle = machine.row.handles.vmm or await hypervisor.find(machine.run_dir)
        if handle is not None:
            # One that has ended by itself may have left something, too.
            await hypervisor.terminate(handle, TERMINATE_SECONDS)

        await machine.record_handles(durable=False, launching=False, vmm=None)


class Ready:
    """Waiting until the guest is up."""

    name = "boot"

    async def do(self, machine: Machine) -> None:
        health = await booted(machine)
        await machine.record(durable=False, guest_boot_id=health.boot_id)

    async def undo(self, machine: Machine) -> None:
        """Nothing: the guest's state goes with the VMM."""
