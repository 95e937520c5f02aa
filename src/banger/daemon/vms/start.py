"""What a VM has while it runs: its run directory, its initrd, its VMM process."""

from __future__ import annotations

import asyncio
import time

import msgspec

from banger.api.errors import BangerError, ErrorCode, PermanentError
from banger.daemon.vms.admission import admit
from banger.daemon.vms.leases import move_ssh_port, require_free
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.plan import guest_config, launch_plan
from banger.daemon.vms.steps import Step
from banger.guest.config import vm_archive
from banger.guest.initramfs import write_initrd
from banger.host.files import remove_tree
from banger.host.paths import ensure_private
from banger.host.threads import in_thread
from banger.network.usermode import port_free

# A VMM that does not react to its monitor within this many seconds is killed.
TERMINATE_SECONDS = 5.0

# Software emulation on a busy two-core host boots in 5 to 60 s; what takes longer has gone wrong.
BOOT_SECONDS = 180.0


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
        archive = vm_archive(guest_config(machine, image.image, key))
        await in_thread(write_initrd, shared, archive, machine.initrd)

    async def undo(self, machine: Machine) -> None:
        machine.initrd.unlink(missing_ok=True)


class Launch:
    """The VMM process. The intent is recorded first, so a crash in between is found again."""

    name = "launch"

    async def do(self, machine: Machine) -> None:
        site = machine.site
        await admit(site, machine.row.spec.memory, vm_id=machine.row.id)
        await machine.record_handles(launching=True, vmm=None)
        kernel = await site.images.kernel_files(machine.row.kernel_id)
        emulated = (await site.hypervisor.capabilities()).accelerator == "tcg"
        handle = await site.hypervisor.launch(launch_plan(machine, kernel, emulated=emulated))
        handles = msgspec.structs.replace(machine.row.handles, launching=False, vmm=handle)
        await machine.record(
            handles=handles, host_boot_id=site.host_boot_id, started_at=time.time()
        )

    async def undo(self, machine: Machine) -> None:
        hypervisor = machine.site.hypervisor
        handle = machine.row.handles.vmm or await hypervisor.find(machine.run_dir)
        if handle is not None and hypervisor.alive(handle):
            await hypervisor.terminate(handle, TERMINATE_SECONDS)

        await machine.record_handles(launching=False, vmm=None)


class Ready:
    """Waiting until the guest says that it answers."""

    name = "boot"

    async def do(self, machine: Machine) -> None:
        handle = machine.row.handles.vmm
        if handle is None:
            raise PermanentError(ErrorCode.LAUNCH_FAILED, f"VM {machine.row.name} has no VMM")

        try:
            async with asyncio.timeout(BOOT_SECONDS):
                boot_id = await machine.site.hypervisor.guest_ready(handle)
        except TimeoutError:
            raise _never_answered(machine) from None

        await machine.record(guest_boot_id=boot_id)

    async def undo(self, machine: Machine) -> None:
        """Nothing: the guest's state goes with the VMM."""


def _never_answered(machine: Machine) -> BangerError:
    return PermanentError(
        ErrorCode.GUEST_TIMEOUT,
        f"VM {machine.row.name} did not answer within {BOOT_SECONDS:.0f} s of its start",
        hint=f"its console may say why: banger vm logs {machine.row.name}",
    )


START_STEPS: tuple[Step[Machine], ...] = (RunDirectory(), Ports(), Initrd(), Launch(), Ready())
