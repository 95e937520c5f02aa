"""What a VM has from its creation to its deletion: its directory, its host key, its two disks."""

from __future__ import annotations

from banger.daemon.vms.keys import write_known_hosts
from banger.daemon.vms.layers import remove_tops
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.steps import Step
from banger.host.files import remove_tree, write_atomic
from banger.host.threads import in_thread
from banger.storage.workdisk import create_work_disk


class Directory:
    """The VM's own directory. Taking it back takes back all that the other steps made in it."""

    name = "directory"

    async def do(self, machine: Machine) -> None:
        machine.vm_dir.mkdir(mode=0o700, parents=True)
        machine.site.paths.disks.mkdir(mode=0o700, exist_ok=True)

    async def undo(self, machine: Machine) -> None:
        await in_thread(remove_tree, machine.vm_dir)


class HostKey:
    """The guest's ssh host key, and the known_hosts file that already knows it."""

    name = "host key"

    async def do(self, machine: Machine) -> None:
        pair = await machine.site.host_keys.take()
        write_atomic(machine.host_key, pair.private, durable=False)
        write_atomic(machine.host_key_public, pair.public.encode(), durable=False)
        write_known_hosts(machine.known_hosts, machine.row.id, pair.public)

    async def undo(self, machine: Machine) -> None:
        """Nothing: it lives in the directory."""


class RootDisk:
    """A copy-on-write overlay over the image, or over what the VM begins as."""

    name = "root disk"

    async def do(self, machine: Machine) -> None:
        if machine.origin is not None:
            await machine.site.moments.clone(machine.origin.root, machine.root_disk)
            return

        files = await machine.site.images.by_id(machine.row.image_id)
        size = machine.row.spec.root_size
        await machine.site.disks.create(files.rootfs, machine.root_disk, size)

    async def undo(self, machine: Machine) -> None:
        remove_tops(machine, "root")


class WorkDisk:
    """The disk at /root: the user's own, kept apart from the root disk."""

    name = "work disk"

    async def do(self, machine: Machine) -> None:
        if machine.origin is not None:
            await machine.site.moments.clone(machine.origin.work, machine.work_disk)
            return

        files = await machine.site.images.by_id(machine.row.image_id)
        await create_work_disk(files.work_seed, machine.work_disk, machine.row.spec.disk_size)

    async def undo(self, machine: Machine) -> None:
        remove_tops(machine, "work")


CREATE_STEPS: tuple[Step[Machine], ...] = (Directory(), HostKey(), RootDisk(), WorkDisk())
