"""One VM under an operation: its row, kept in step with the store, and what the steps work with."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import msgspec

from banger.api.models import Image, VMSpec, VMState
from banger.daemon.operations import Progress
from banger.daemon.store import Store
from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.vms.keys import ClientKey
from banger.daemon.vms.steps import Hook
from banger.host.config import Config
from banger.host.paths import Paths
from banger.hypervisor.base import Hypervisor, VMMHandle
from banger.image.kernels import KernelFiles
from banger.image.store import ImageFiles
from banger.network.usermode import UserNetwork
from banger.storage.base import RootDisk


class ImageSource(Protocol):
    """Where VMs get the files of their image and kernel, verified."""

    async def resolve(self, name: str, progress: Progress) -> Image:
        """The image called `name`, built first if it can be. Raises CallerError(unknown_image)."""

    async def by_id(self, image_id: str) -> ImageFiles: ...

    async def kernel_files(self, ref: str) -> KernelFiles: ...

    async def initramfs(self, kernel_id: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Site:
    """What every VM on this host shares: directories, configuration, and the seams."""

    paths: Paths
    config: Config
    store: Store
    images: ImageSource
    client_key: ClientKey
    hypervisor: Hypervisor
    network: UserNetwork
    root_disks: RootDisk
    host_boot_id: str
    hook: Hook
    reservation: asyncio.Lock


class RowChanges(TypedDict, total=False):
    """The fields of a VMRow that change during a VM's life."""

    name: str
    state: VMState
    spec: VMSpec
    handles: Handles
    started_at: float | None
    host_boot_id: str | None
    guest_boot_id: str | None
    reason: str | None
    operation: str | None


class HandleChanges(TypedDict, total=False):
    """The fields of Handles that change during a VM's life."""

    ssh_port: int
    launching: bool
    vmm: VMMHandle | None


class Machine:
    """The subject of the steps. `row` is what the store holds; `record` changes both."""

    def __init__(self, site: Site, row: VMRow) -> None:
        self.site = site
        self.row = row

    @property
    def vm_dir(self) -> Path:
        return Path(self.row.handles.vm_dir)

    @property
    def run_dir(self) -> Path:
        return Path(self.row.handles.run_dir)

    @property
    def console_log(self) -> Path:
        return self.vm_dir / "console.log"

    @property
    def host_key(self) -> Path:
        return self.vm_dir / "ssh_host_ed25519_key"

    @property
    def known_hosts(self) -> Path:
        return self.vm_dir / "known_hosts"

    @property
    def root_disk(self) -> Path:
        return self.vm_dir / "root.qcow2"

    @property
    def work_disk(self) -> Path:
        return self.vm_dir / "work.raw"

    @property
    def initrd(self) -> Path:
        return self.vm_dir / "initrd"

    async def record(self, **changes: Unpack[RowChanges]) -> None:
        """Replace fields of the row, on disk before this returns."""
        row = msgspec.structs.replace(self.row, updated_at=time.time(), **changes)
        await self.site.store.save_vm(row)
        self.row = row

    async def record_handles(self, **changes: Unpack[HandleChanges]) -> None:
        """Replace fields of the row's handles, on disk before this returns."""
        await self.record(handles=msgspec.structs.replace(self.row.handles, **changes))


class Locks:
    """One lock a VM, made on first use; whoever waits gets its turn in order of arrival."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    def of(self, vm_id: str) -> asyncio.Lock:
        return self._locks.setdefault(vm_id, asyncio.Lock())

    def forget(self, vm_id: str) -> None:
        """Drop the lock of a VM that is deleted, unless somebody still waits for it."""
        lock = self._locks.get(vm_id)
        if lock is not None and not lock.locked():
            del self._locks[vm_id]
