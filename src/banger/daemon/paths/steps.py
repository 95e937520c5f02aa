"""What a running VM has on an installed host beside what every VM has: tap, names, root device."""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode
from banger.daemon.paths.bridged import Bridged
from banger.daemon.vms.keys import write_known_hosts
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.start import Initrd, Launch
from banger.host.paths import ensure_private
from banger.host.resources import check_disk_beside_guests
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import CheckSnapshot, CreateSnapshot, RemoveSnapshot
from banger.storage.cow import device_name, device_size

# The kernel lets go of a device a moment after the process that had it open has ended.
_BUSY_PAUSES = (0.1, 0.3, 1.0, 3.0, None)


class Tap:
    """Its port on the bridge, from which nothing is let through yet."""

    name = "tap"

    def __init__(self, network: Bridged) -> None:
        self._network = network

    async def do(self, machine: Machine) -> None:
        tap = await self._network.acquire(machine.row)
        try:
            await machine.record_handles(durable=False, tap=tap)
        except BaseException:
            await asyncio.shield(self._network.release(tap))
            raise

    async def undo(self, machine: Machine) -> None:
        tap = machine.row.handles.tap
        if not tap:
            return

        await self._network.release(tap)
        await machine.record_handles(durable=False, tap="")


class Known:
    """Its name in DNS, and what lets `ssh <name>.vm` be sure of it: its host key under that name.

    One that stands by is nobody's, and nobody is to find it.
    """

    name = "ssh"

    def __init__(self, network: Bridged) -> None:
        self._network = network

    async def do(self, machine: Machine) -> None:
        if machine.row.standby:
            return

        file = self._file(machine)
        ensure_private(file.parent)
        write_known_hosts(file, file.name, machine.host_key_public.read_text())
        self._network.make_known(machine.row)

    async def undo(self, machine: Machine) -> None:
        self._network.forget(machine.row)
        self._file(machine).unlink(missing_ok=True)

    def _file(self, machine: Machine) -> Path:
        return machine.site.paths.ssh_names / self._network.hostname(machine.row)


class BootInitrd(Initrd):
    """An initrd for a guest that boots: one that goes on from memory is past it.

    Should it reboot, that ends its VMM, and the next start makes one.
    """

    async def do(self, machine: Machine) -> None:
        if machine.memory is None:
            await super().do(machine)


class HeardLaunch(Launch):
    """The VMM process, and meanwhile the packet filter's word for what speaks from its tap.

    Neither waits for the other: until it may speak a guest is heard by nobody, and it has nothing
    to say for as long as it boots, or has not been told who it is.
    """

    def __init__(self, network: Bridged) -> None:
        self._network = network

    async def do(self, machine: Machine) -> None:
        self._network.hold_ports(machine.row)
        admitted = asyncio.ensure_future(self._network.admit(machine.row))
        # Never cancelled: the helper would go on, and come after what takes it back.
        try:
            await super().do(machine)
        except BaseException:
            await asyncio.shield(asyncio.gather(admitted, return_exceptions=True))
            raise
        await asyncio.shield(admitted)

    async def undo(self, machine: Machine) -> None:
        try:
            await self._network.disconnect(machine.row)
        finally:
            await super().undo(machine)


class RootDevice:
    """The block device of its root disk: the image, with what the VM has written above it."""

    name = "root device"

    def __init__(self, ops: PrivilegedOps) -> None:
        self._ops = ops

    async def do(self, machine: Machine) -> None:
        # See daemon/headroom.py: with less, its guest would have to stand still at once.
        check_disk_beside_guests(machine.site.paths.state)
        name = device_name(machine.row.id)
        files = await machine.site.images.by_id(machine.row.image_id)
        request = CreateSnapshot(
            name=name,
            base=str(files.rootfs),
            cow=machine.disks.root.path,
            size=device_size(machine.spec.root_size),
        )
        try:
            await self._ops.call(request)
        except BangerError as error:
            if error.code is not ErrorCode.HELPER_BUSY:
                raise

            # Of an earlier start, of which nothing runs any more.
            await self._remove(name)
            await self._ops.call(request)

        # What goes on from memory has the file system open.
        if machine.row.unclean and machine.memory is None:
            await self._ops.call(CheckSnapshot(name=name))

    async def undo(self, machine: Machine) -> None:
        await self._remove(device_name(machine.row.id))

    async def _remove(self, name: str) -> None:
        for pause in _BUSY_PAUSES:
            try:
                await self._ops.call(RemoveSnapshot(name=name))
            except BangerError as error:
                if error.code is not ErrorCode.TOOL_FAILED or pause is None:
                    raise

                await asyncio.sleep(pause)
            else:
                return
