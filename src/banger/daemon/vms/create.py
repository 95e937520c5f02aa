"""What a VM has from its creation to its deletion: its directory, its host key, its two disks."""

from __future__ import annotations

from banger.daemon.vms.keys import make_key, write_known_hosts
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.steps import Step
from banger.host.files import remove_tree
from banger.host.threads import in_thread
from banger.storage.workdisk import create_work_disk


class Directory:
    """The VM's own directory. Taking it back takes back all that the other steps made in it."""

    name = "directory"

    async def do(self, machine: Machine) -> None:
        machine.vm_dir.mkdir(mode=0o700, parents=True)

    async def undo(self, machine: Machine) -> None:
        await in_thread(remove_tree, machine.vm_dir)


class HostKey:
    """The guest's ssh host key, and the known_hosts file that already knows it."""

    name = "host key"

    async def do(self, machine: Machine) -> None:
        await make_key(machine.host_key, machine.row.id)
        public = machine.host_key.with_name(f"{machine.host_key.name}.pub").read_text()
        write_known_hosts(machine.known_hosts, machine.row.id, public)

    async def undo(self, machine: Machine) -> None:
        """Nothing: it lives in the directory."""


class RootDisk:
    """A copy-on-write overlay over the image."""

    name = "root disk"

    async def do(self, machine: Machine) -> None:
        files = await machine.site.images.by_id(machine.row.image_id)
        size = machine.row.spec.root_size
        await machine.site.root_disks.create(files.rootfs, machine.root_disk, size)

    async def undo(self, machine: Machine) -> None:
        """Nothing: it lives in the directory."""


class WorkDisk:
    """The disk at /root: the user's own, kept apart from the root disk."""

    name = "work disk"

    async def do(self, machine: Machine) -> None:
        files = await machine.site.images.by_id(machine.row.image_id)
        await create_work_disk(files.work_seed, machine.work_disk, machine.row.spec.disk_size)

    async def undo(self, machine: Machine) -> None:
        """Nothing: it lives in the directory."""


CREATE_STEPS: tuple[Step[Machine], ...] = (Directory(), HostKey(), RootDisk(), WorkDisk())
