"""One VM under an operation: its row, kept in step with the store, and what the steps work with."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict, TypeVar, Unpack

import msgspec

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import Image, VMSpec, VMState
from banger.channel.exchange import GREETING_SECONDS
from banger.channel.requests import Answer, Request
from banger.daemon.operations import Progress
from banger.daemon.store import Store
from banger.daemon.store.rows import Handles, Layers, VMRow
from banger.daemon.vms.keys import ClientKey, HostKeys
from banger.daemon.vms.moments import Moments
from banger.daemon.vms.seams import Network
from banger.daemon.vms.steps import Hook, Step
from banger.host.config import Config
from banger.host.paths import HostPath, Paths
from banger.host.process import ProcessRef
from banger.hypervisor.base import Hypervisor, MemoryImage, VMMHandle
from banger.image.kernels import KernelFiles
from banger.image.store import ImageFiles
from banger.storage.base import Disks


class ImageSource(Protocol):
    """Where VMs get the files of their image and kernel, verified."""

    async def resolve(self, name: str, progress: Progress) -> Image:
        """The image called `name`, built first if it can be. Raises CallerError(unknown_image)."""

    async def list(self) -> builtins.list[Image]: ...

    async def by_id(self, image_id: str) -> ImageFiles: ...

    async def kernel_files(self, ref: str) -> KernelFiles: ...

    async def initramfs(self, kernel_id: str) -> Path: ...


A = TypeVar("A", bound=Answer)


class Agent(Protocol):
    """What banger asks of a guest, whatever carries it: see `channel.aio.GuestAgent`."""

    async def ask(
        self,
        request: Request,
        answer: type[A],
        *,
        patience: float = GREETING_SECONDS,
        timeout: float | None = 30.0,
    ) -> A: ...

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None: ...

    def aligned(self) -> bool: ...

    def held(self) -> AbstractContextManager[tuple[int, ...]]: ...


# From the run directory of a VM to its guest's agent, on streams that are the daemon's own.
AgentOf = Callable[[Path], Agent]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a new VM begins as, in place of its image: another guest at one moment.

    `root` and `work` are what `Moments.clone` makes its disks of; with `memory` the new VM goes on
    from that moment, else it boots from those disks. `aligned` are the streams into the guest on
    which no frame was cut short; all, if None.
    """

    root: Path
    work: Path
    memory: MemoryImage | None
    aligned: tuple[int, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a VM that exists is to go on as: `disks`, which are made of `below`.

    It is kept once the VM runs. Until then, and if that fails, the VM is what its row says.
    """

    below: Layers
    disks: Layers
    spec: VMSpec
    memory: MemoryImage | None

    @property
    def in_place(self) -> bool:
        """Whether it goes on with the very disks that the memory belongs to.

        What it writes to them from then on makes that memory useless.
        """
        return self.disks == self.below


class Lingering:
    """What still goes on with what was a VM's, without its lock; its deletion waits for that."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._ended = asyncio.Condition()

    @asynccontextmanager
    async def of(self, vm_id: str) -> AsyncIterator[None]:
        """Begin before the VM's lock is given up."""
        self._counts[vm_id] += 1
        try:
            yield
        finally:
            self._counts[vm_id] -= 1
            if not self._counts[vm_id]:
                del self._counts[vm_id]

            async with self._ended:
                self._ended.notify_all()

    async def gone(self, vm_id: str) -> None:
        """Return when there is nothing of the kind. The VM's lock keeps more from beginning."""
        async with self._ended:
            await self._ended.wait_for(lambda: not self._counts[vm_id])


@dataclass(frozen=True, slots=True)
class Site:
    """What every VM on this host shares: directories, configuration, and the seams.

    `run_steps` lead from a VM that is stopped to one whose VMM runs, `seed_steps` from the disks of
    a guest that is to become a template to where its VMM can be launched; `name_steps`, some of the
    former, go by a VM's name. `litter` is set by who leaves something that perhaps nobody needs any
    more, `ending` while the host ends and no VM may start.
    """

    host_path: HostPath

    paths: Paths
    config: Config
    store: Store
    images: ImageSource
    client_key: ClientKey
    hypervisor: Hypervisor
    agent: AgentOf
    network: Network
    disks: Disks
    moments: Moments
    run_steps: tuple[Step[Machine], ...]
    seed_steps: tuple[Step[Machine], ...]
    name_steps: tuple[Step[Machine], ...]
    host_boot_id: str
    hook: Hook
    reservation: asyncio.Lock
    host_keys: HostKeys = field(default_factory=HostKeys)
    lingering: Lingering = field(default_factory=Lingering)
    litter: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)


class RowChanges(TypedDict, total=False):
    """The fields of a VMRow that change during a VM's life."""

    name: str
    state: VMState
    spec: VMSpec
    handles: Handles
    started_at: float | None
    host_boot_id: str | None
    guest_boot_id: str | None
    created_at: float
    holder: ProcessRef | None
    standby: bool
    reason: str | None
    operation: str | None
    unclean: bool


class HandleChanges(TypedDict, total=False):
    """The fields of Handles that change during a VM's life."""

    ssh_port: int
    disks: Layers
    next: Layers | None
    memory: str | None
    memory_vmm: str
    launching: bool
    vmm: VMMHandle | None
    tap: str


class Machine:
    """The subject of the steps. `row` is what the store holds; `record` changes both.

    With a `moment` its next start is an attempt to go on as that.
    """

    def __init__(self, site: Site, row: VMRow, origin: Origin | None = None) -> None:
        self.site = site
        self.row = row
        self.origin = origin
        self.moment: Moment | None = None

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
    def host_key_public(self) -> Path:
        return self.vm_dir / "ssh_host_ed25519_key.pub"

    @property
    def known_hosts(self) -> Path:
        return self.vm_dir / "known_hosts"

    @property
    def root_disk(self) -> Path:
        return Path(self.row.handles.disks.root.path)

    @property
    def work_disk(self) -> Path:
        return Path(self.row.handles.disks.work.path)

    @property
    def initrd(self) -> Path:
        return self.vm_dir / "initrd"

    @property
    def suspended_memory(self) -> Path:
        """Where its memory is while it is suspended."""
        return self.vm_dir / "memory"

    @property
    def disks(self) -> Layers:
        """The layers that a VMM started now opens."""
        return self.row.handles.disks if self.moment is None else self.moment.disks

    @property
    def spec(self) -> VMSpec:
        """What a VM started now is."""
        return self.row.spec if self.moment is None else self.moment.spec

    @property
    def memory(self) -> MemoryImage | None:
        """What a VM started now goes on from; None when it boots."""
        begun = self.moment or self.origin
        return None if begun is None else begun.memory

    @property
    def agent(self) -> Agent:
        """Its guest's agent."""
        return self.site.agent(self.run_dir)

    def require_vmm(self) -> VMMHandle:
        """Its VMM, dead or alive. Raises PermanentError(launch_failed) when it has none."""
        handle = self.row.handles.vmm
        if handle is None:
            raise PermanentError(ErrorCode.LAUNCH_FAILED, f"VM {self.row.name} has no VMM")

        return handle

    def alive(self) -> bool:
        """Whether its VMM runs, and is the one it was started with in this boot of the host."""
        handle = self.row.handles.vmm
        return (
            handle is not None
            and self.row.host_boot_id == self.site.host_boot_id
            and self.site.hypervisor.alive(handle)
        )

    async def record(self, *, durable: bool = True, **changes: Unpack[RowChanges]) -> None:
        """Replace fields of the row, on disk before this returns, cancelled or not.

        What means nothing after a crash of the whole host, which ends all VMs, need not be
        `durable`: it survives the daemon.
        """
        row = msgspec.structs.replace(self.row, updated_at=time.time(), **changes)
        saving = asyncio.ensure_future(self.site.store.save_vm(row, durable=durable))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            await asyncio.wait([saving])
            if saving.exception() is None:
                self.row = row

            raise

        self.row = row

    async def record_handles(
        self, *, durable: bool = True, **changes: Unpack[HandleChanges]
    ) -> None:
        """Replace fields of the row's handles, as `record` does."""
        handles = msgspec.structs.replace(self.row.handles, **changes)
        await self.record(durable=durable, handles=handles)


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
