"""A host on which VMs are made for real, except that a VMM is an entry in a table.

Directories, keys, qcow2 overlays, work disks and the store are the real ones, made small.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import CreateVM, Image, Kernel, Operation, OperationState
from banger.api.sizes import MIB
from banger.daemon.operations import Operations, Progress
from banger.daemon.store import Store
from banger.daemon.vms.keys import ClientKey
from banger.daemon.vms.machine import Locks, Site
from banger.daemon.vms.reconcile import reconcile
from banger.daemon.vms.service import VMs
from banger.daemon.vms.steps import Hook, no_hook
from banger.daemon.vms.watch import Watch
from banger.host.config import Config, Defaults
from banger.host.paths import Paths
from banger.hypervisor.base import (
    Capabilities,
    ExitReason,
    LaunchPlan,
    VMMHandle,
    VMMUsage,
)
from banger.image.kernels import KernelFiles
from banger.image.store import ImageFiles
from banger.network.usermode import UserNetwork
from banger.storage.qcow2 import Qcow2

MEMORY = 128 * MIB
DISK = 4 * MIB

DEFAULTS = Defaults(
    image="tiny", vcpus=1, memory=MEMORY, disk_size=DISK, root_size=DISK, sources={}
)


class Processes:
    """The VMMs of a host: they outlive every daemon, and end only with `end` or a reboot."""

    def __init__(self) -> None:
        self.alive: dict[str, VMMHandle] = {}
        self.pids = itertools.count(10_000_000)


class FakeHypervisor:
    """VMMs as table entries. `boots` says whether guests come up; a request is obeyed at once."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.boots = True
        self.requests: list[str] = []
        self._watches: dict[str, Callable[[ExitReason], None]] = {}
        self._told: set[VMMHandle] = set()

    async def capabilities(self) -> Capabilities:
        return Capabilities(name="fake", version="1", accelerator="tcg", accelerator_reason="")

    async def launch(self, plan: LaunchPlan) -> VMMHandle:
        handle = VMMHandle(
            pid=next(self.processes.pids),
            start_time=1,
            executable="vmm",
            run_dir=str(plan.run_dir),
            accelerator="tcg",
        )
        self.processes.alive[handle.run_dir] = handle
        return handle

    async def find(self, run_dir: Path) -> VMMHandle | None:
        return self.processes.alive.get(str(run_dir))

    def alive(self, handle: VMMHandle) -> bool:
        return self.processes.alive.get(handle.run_dir) == handle

    def watch(self, handle: VMMHandle, on_exit: Callable[[ExitReason], None]) -> None:
        self._watches[handle.run_dir] = on_exit

    def exit_reason(self, handle: VMMHandle) -> ExitReason:
        del handle
        return ExitReason.DIED

    async def guest_request(self, handle: VMMHandle, request: str) -> None:
        self.requests.append(request)
        self.end(handle)

    async def guest_ready(self, handle: VMMHandle) -> str:
        if not self.boots:
            raise PermanentError(ErrorCode.LAUNCH_FAILED, "kernel panic")

        if handle in self._told:
            await asyncio.Event().wait()

        self._told.add(handle)
        return f"boot of {handle.pid}"

    async def terminate(self, handle: VMMHandle, timeout: float) -> None:
        del timeout
        self.end(handle)

    async def kill(self, handle: VMMHandle, signal: int) -> None:
        del signal
        self.end(handle)

    def usage(self, handle: VMMHandle) -> VMMUsage | None:
        del handle
        return None

    def close(self) -> None:
        self._watches.clear()

    def end(self, handle: VMMHandle, reason: ExitReason = ExitReason.DIED) -> None:
        """The VMM ends, and whoever watches it is told."""
        self.processes.alive.pop(handle.run_dir, None)
        watch = self._watches.pop(handle.run_dir, None)
        if watch is not None:
            watch(reason)


class TinyImages:
    """One image of two empty file systems, and a kernel that is never run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        for name in ("rootfs", "work"):
            path = directory / name
            if not path.exists():
                subprocess.run(["mke2fs", "-q", "-t", "ext4", path, "4M"], check=True)

        (directory / "initramfs").write_bytes(b"")
        self.image = Image(
            id="i1", name="tiny", kernel="k1", created_at=0.0,
            root_size=DISK, work_size=DISK, allocated_bytes=0,
        )  # fmt: skip

    async def resolve(self, name: str, progress: Progress) -> Image:
        del name, progress
        return self.image

    async def by_id(self, image_id: str) -> ImageFiles:
        del image_id
        return ImageFiles(self.image, self.directory / "rootfs", self.directory / "work")

    async def kernel_files(self, ref: str) -> KernelFiles:
        kernel = Kernel(id=ref, name=ref, release="1", created_at=0.0, allocated_bytes=0)
        return KernelFiles(kernel, self.directory, self.directory, self.directory)

    async def initramfs(self, kernel_id: str) -> Path:
        del kernel_id
        return self.directory / "initramfs"


class Daemon:
    """One life of a daemon on a host that may have seen others."""

    def __init__(self, site: Site, hypervisor: FakeHypervisor) -> None:
        self.site = site
        self.hypervisor = hypervisor
        self.operations = Operations(site.store)
        self.locks = Locks()
        self.watch = Watch(site, self.locks)
        self.vms = VMs(site, self.operations, self.locks, self.watch, DEFAULTS)

    async def done(self, operation: Operation) -> Operation:
        """How `operation` ended."""
        return await self.operations.wait(operation.id)

    async def create(self, name: str, *, start: bool = True) -> Operation:
        return await self.done(await self.vms.create(CreateVM(name=name, start=start)))

    async def quiet(self) -> None:
        """Wait until nothing goes on in the background."""
        await self.watch.settled()


def paths_below(root: Path) -> Paths:
    return Paths(root, root / "state", root / "cache", root / "run")


@asynccontextmanager
async def daemon(
    root: Path,
    processes: Processes,
    *,
    hook: Hook = no_hook,
    host_boot_id: str = "boot 1",
) -> AsyncIterator[Daemon]:
    """A daemon that serves the installation below `root`, after reconciling it."""
    paths = paths_below(root)
    for directory in (paths.state, paths.run):
        directory.mkdir(mode=0o700, exist_ok=True)

    config = Config()
    hypervisor = FakeHypervisor(processes)
    store = await Store.open(paths.database)
    site = Site(
        paths=paths,
        config=config,
        store=store,
        images=TinyImages(root / "image"),
        client_key=ClientKey(paths),
        hypervisor=hypervisor,
        network=UserNetwork(config.network.subnet),
        root_disks=Qcow2(),
        host_boot_id=host_boot_id,
        hook=hook,
        reservation=asyncio.Lock(),
    )
    life = Daemon(site, hypervisor)
    await reconcile(site, life.locks, life.watch)
    try:
        yield life
    finally:
        await life.operations.close()
        await life.watch.close()
        await store.close()


def leftovers(root: Path, processes: Processes) -> list[str]:
    """What VMs own on this host: processes and directories."""
    paths = paths_below(root)
    directories = [*paths.vms.glob("*"), *paths.vm_run.glob("*")]
    return [*processes.alive, *(str(directory) for directory in directories)]


def failed_with(operation: Operation) -> ErrorCode | str | None:
    """The code `operation` failed with; None when it succeeded."""
    if operation.state is OperationState.SUCCEEDED:
        return None

    assert operation.error is not None
    return operation.error.code
