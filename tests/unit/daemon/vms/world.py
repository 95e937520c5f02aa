"""A host on which VMs are made for real, except that a VMM is an entry in a table.

Directories, keys, qcow2 overlays, work disks and the store are the real ones, made small.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tests.unit.daemon.vms.tiny import DISK, STATS, TinyImages

from banger.api.errors import ErrorCode, PermanentError, TransientError
from banger.api.models import CreateVM, Operation, OperationState
from banger.api.sizes import MIB
from banger.channel.requests import Answer, Freeze, Health, Identity, PowerOff, Request, Stats, Thaw
from banger.daemon.gc import Collector
from banger.daemon.operations import Operations
from banger.daemon.paths.base import Seams
from banger.daemon.paths.embedded import open_embedded
from banger.daemon.snapshots.service import Snapshots
from banger.daemon.standby import Standby
from banger.daemon.store import Store
from banger.daemon.store.rows import VMRow
from banger.daemon.templates.background import Lull
from banger.daemon.templates.service import Templates
from banger.daemon.vms.creation import Creation
from banger.daemon.vms.farewell import Farewell
from banger.daemon.vms.keys import ClientKey
from banger.daemon.vms.machine import Locks, Site
from banger.daemon.vms.reconcile import reconcile
from banger.daemon.vms.request import Requests
from banger.daemon.vms.service import VMs
from banger.daemon.vms.steps import Hook, no_hook
from banger.daemon.vms.watch import Watch
from banger.host.config import Config, Defaults, LimitsSection, Quota
from banger.host.paths import HostPath, Paths
from banger.hypervisor.base import (
    Capabilities,
    Disk,
    ExitReason,
    LaunchPlan,
    MemoryImage,
    VMMHandle,
    VMMUsage,
)
from banger.storage.layers import backing_file
from banger.storage.qcow2 import Qcow2

A = TypeVar("A", bound=Answer)

MEMORY = 128 * MIB

DEFAULTS = Defaults(
    image="tiny", vcpus=1, memory=MEMORY, disk_size=DISK, root_size=DISK, sources={}
)


@dataclass
class FakeGuest:
    """What a VMM holds: the files its disks are written to, its memory, and whether it goes on."""

    disks: dict[str, Path]
    memory: str
    paused: bool = False
    frozen: bool = False
    reclaimed: int = 0


class Processes:
    """The VMMs of a host: they outlive every daemon, and end only with `end` or a reboot."""

    def __init__(self) -> None:
        self.alive: dict[str, VMMHandle] = {}
        self.guests: dict[str, FakeGuest] = {}
        self.pids = itertools.count(10_000_000)


class FakeHypervisor:
    """VMMs as table entries. A guest's memory is a text, which `save` and `restore` keep.

    What is named in `failing` fails, having done nothing.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.failing: set[str] = set()
        self.version = "1"
        self._watches: dict[str, Callable[[ExitReason], None]] = {}

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            name="fake", version=self.version, accelerator="tcg", accelerator_reason=""
        )

    async def launch(self, plan: LaunchPlan) -> VMMHandle:
        self._fail("launch", ErrorCode.LAUNCH_FAILED)
        for disk in plan.disks:
            assert disk.path.exists(), disk

        handle = VMMHandle(
            pid=next(self.processes.pids),
            start_time=1,
            executable="vmm",
            run_dir=str(plan.run_dir),
            accelerator="tcg",
        )
        self.processes.alive[handle.run_dir] = handle
        self.processes.guests[handle.run_dir] = FakeGuest(
            disks={disk.serial: disk.path for disk in plan.disks},
            memory=plan.restore.memory.read_text() if plan.restore else f"boot {handle.pid}",
            paused=plan.restore is not None,
            frozen=plan.restore is not None,
        )
        return handle

    def guest(self, handle: VMMHandle) -> FakeGuest:
        """The guest of a VMM that runs."""
        if not self.alive(handle):
            raise PermanentError(ErrorCode.SAVE_FAILED, "the VMM has ended")

        return self.processes.guests[handle.run_dir]

    async def pause(self, handle: VMMHandle) -> None:
        self._fail("pause", ErrorCode.INTERNAL)
        self.guest(handle).paused = True

    async def resume(self, handle: VMMHandle) -> None:
        self._fail("resume", ErrorCode.INTERNAL)
        self.guest(handle).paused = False

    async def paused(self, handle: VMMHandle) -> bool:
        return self.guest(handle).paused

    async def reclaim(self, handle: VMMHandle, size: int) -> int:
        self._fail("reclaim", ErrorCode.VM_NOT_RUNNING)
        self.guest(handle).reclaimed = size
        return size

    async def save(
        self, handle: VMMHandle, stream: Path, overlays: Sequence[Disk], *, resume: bool
    ) -> None:
        self._fail("save", ErrorCode.SAVE_FAILED)
        guest = self.guest(handle)
        for overlay in overlays:
            below = backing_file(overlay.path)
            old = guest.disks[overlay.serial]
            # What is open may have got another name.
            assert below == old or not old.exists()

        guest.disks |= {overlay.serial: overlay.path for overlay in overlays}
        self._fail("save, disks switched", ErrorCode.SAVE_FAILED)
        _write_new(stream, guest.memory)
        guest.paused = guest.paused or not resume

    async def convert(self, stream: Path, out: MemoryImage) -> None:
        self._fail("convert", ErrorCode.SAVE_FAILED)
        _write_image(out, stream)

    async def top(self, handle: VMMHandle, serial: str) -> Path:
        return self.guest(handle).disks[serial]

    async def flatten(self, handle: VMMHandle, serial: str, bottom: Path) -> None:
        self._fail("flatten", ErrorCode.SAVE_FAILED)
        await Qcow2().flatten(self.guest(handle).disks[serial], bottom)

    def _fail(self, name: str, code: ErrorCode) -> None:
        if name in self.failing:
            raise PermanentError(code, f"injected: {name}")

    async def find(self, run_dir: Path) -> VMMHandle | None:
        return self.processes.alive.get(str(run_dir))

    def alive(self, handle: VMMHandle) -> bool:
        return self.processes.alive.get(handle.run_dir) == handle

    def watch(self, handle: VMMHandle, on_exit: Callable[[ExitReason], None]) -> None:
        self._watches[handle.run_dir] = on_exit

    def exit_reason(self, handle: VMMHandle) -> ExitReason:
        del handle
        return ExitReason.DIED

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
        self.processes.guests.pop(handle.run_dir, None)
        watch = self._watches.pop(handle.run_dir, None)
        if watch is not None:
            watch(reason)


def _write_new(path: Path, text: str) -> None:
    with path.open("x") as file:
        file.write(text)


def _write_image(out: MemoryImage, stream: Path) -> None:
    part = out.directory.with_name(f"{out.directory.name}.part")
    part.mkdir()
    (part / "memory").write_text(stream.read_text())
    (part / "state").write_text("devices")
    part.rename(out.directory)


class FakeGuests:
    """The agents of all guests; they obey at once.

    With `boots` false their VMMs end before they answer. `reboots` counts, `asked` keeps all that
    was asked of any guest.
    """

    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self.hypervisor = hypervisor
        self.boots = True
        self.asked: list[Request] = []
        self._reboots = 0
        self._rebooted = asyncio.Event()

    def agent(self, run_dir: Path) -> FakeAgent:
        return FakeAgent(self, str(run_dir))

    def reboot(self) -> None:
        """All guests begin anew, without their VMMs ending."""
        self._reboots += 1
        self._rebooted.set()
        self._rebooted = asyncio.Event()

    async def answer(self, run_dir: str, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        handle = self.hypervisor.processes.alive.get(run_dir)
        if handle is None or not self.boots:
            raise TransientError(ErrorCode.AGENT_UNREACHABLE, "there is no way into the guest")

        guest = self.hypervisor.guest(handle)
        if guest.paused:
            raise TransientError(ErrorCode.GUEST_TIMEOUT, "the guest's agent does not answer")

        if isinstance(request, PowerOff):
            self.hypervisor.end(handle)
        elif isinstance(request, Freeze):
            guest.frozen = True
        elif isinstance(request, Thaw):
            guest.frozen = False
        elif isinstance(request, Identity):
            guest.frozen = False
            return await self._health(handle, Health())
        elif isinstance(request, Health):
            return await self._health(handle, request)
        elif isinstance(request, Stats):
            return STATS

        return {}

    async def _health(self, handle: VMMHandle, request: Health) -> dict[str, Any]:
        while request.other_than == self._boot_id(handle):
            await self._rebooted.wait()

        boot_id = self._boot_id(handle)
        system = "running" if request.system else None
        return {
            "version": 1,
            "boot_id": boot_id,
            "uptime": 1.0,
            "clock": time.time_ns(),
            "hostname": "g",
            "system": system,
        }

    def _boot_id(self, handle: VMMHandle) -> str:
        return str(uuid.UUID(int=handle.pid << 16 | self._reboots))


class FakeAgent:
    """The agent of the guest whose VMM has its sockets in `run_dir`."""

    def __init__(self, guests: FakeGuests, run_dir: str) -> None:
        self._guests = guests
        self._run_dir = run_dir

    async def ask(
        self,
        request: Request,
        answer: type[A],
        *,
        patience: float = 0.0,
        timeout: float | None = None,
    ) -> A:
        del patience, timeout
        return msgspec.convert(await self._guests.answer(self._run_dir, request), answer)

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None:
        """Nothing: these guests have no frames."""

    def aligned(self) -> bool:
        return True

    def held(self) -> AbstractContextManager[tuple[int, ...]]:
        return nullcontext(())


class Daemon:
    """One life of a daemon on a host that may have seen others."""

    def __init__(self, site: Site, hypervisor: FakeHypervisor, guests: FakeGuests) -> None:
        self.site = site
        self.hypervisor = hypervisor
        self.guests = guests
        self.operations = Operations(site.store)
        self.locks = Locks()
        self.watch = Watch(site, self.locks)
        self.collector = Collector(site)
        lull = Lull(site, self.operations, grace=0.0)
        self.templates = Templates(
            site,
            self.operations,
            DEFAULTS,
            sweep=self.collector.collect,
            spawn=self.watch.spawn,
            lull=lull,
        )
        self.creation = Creation(site, self.locks, self.watch)
        self.farewell = Farewell(site, self.operations, self.locks)
        self.standby = Standby(site, self.locks, self.watch, self.creation, self.templates, lull)
        self.templates.follow(self.standby.template_gone)
        requests = Requests(site, self.creation, self.templates, self.standby, DEFAULTS)
        self.vms = VMs(site, self.operations, self.locks, self.watch, requests)
        self.snapshots = Snapshots(site, self.operations, self.locks, self.watch, self.collector)

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


Opener = Callable[[FakeHypervisor, Config, Sequence[VMRow], str], Awaitable[Seams]]


async def embedded(
    hypervisor: FakeHypervisor, config: Config, rows: Sequence[VMRow], boot_id: str
) -> Seams:
    """The embedded path, but for its VMM."""
    del rows, boot_id
    return replace(open_embedded(config), hypervisor=hypervisor)


@asynccontextmanager
async def daemon(
    root: Path,
    processes: Processes,
    *,
    hook: Hook = no_hook,
    host_boot_id: str = "boot 1",
    templates_size: int = 0,
    standby: bool = False,
    path: Opener = embedded,
) -> AsyncIterator[Daemon]:
    """A daemon that serves the installation below `root`, after reconciling it.

    Without `templates_size` every VM boots, without `standby` none is made ahead.
    """
    paths = paths_below(root)
    for directory in (paths.state, paths.run):
        directory.mkdir(mode=0o700, exist_ok=True)

    config = Config(limits=LimitsSection(templates_size=Quota(templates_size), standby=standby))
    hypervisor = FakeHypervisor(processes)
    guests = FakeGuests(hypervisor)
    store = await Store.open(paths.database)
    seams = await path(hypervisor, config, await store.vms(), host_boot_id)
    site = Site(
        host_path=HostPath.EMBEDDED,
        paths=paths,
        config=config,
        store=store,
        images=TinyImages(root / "image"),
        client_key=ClientKey(paths),
        hypervisor=seams.hypervisor,
        agent=guests.agent,
        network=seams.network,
        disks=seams.disks,
        moments=seams.moments,
        run_steps=seams.run_steps,
        seed_steps=seams.seed_steps,
        name_steps=seams.name_steps,
        host_boot_id=host_boot_id,
        hook=hook,
        reservation=asyncio.Lock(),
    )
    life = Daemon(site, hypervisor, guests)
    await life.snapshots.reconcile()
    await reconcile(site, life.locks, life.watch)
    await life.templates.reconcile()
    await life.collector.collect(idle=True)
    try:
        yield life
    finally:
        await life.operations.close()
        await life.standby.close()
        await life.watch.close()
        await life.collector.close()
        await site.host_keys.close()
        await seams.close()
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


# Loops of daemons that were killed: nothing in them goes on, and nothing may be tidied up.
_KILLED: list[object] = []


def killed_at(
    place: tuple[str, str],
    root: Path,
    processes: Processes,
    work: Callable[[Daemon], Awaitable[object]],
    **options: Any,
) -> bool:
    """Let a daemon do `work`, and be gone right before the step `place`: nothing is taken back.

    Whether it came so far; if not it has ended as daemons do.
    """
    loop = asyncio.new_event_loop()
    reached: asyncio.Future[None] = loop.create_future()

    async def hook(label: str, step: str) -> None:
        if (label, step) == place:
            if not reached.done():
                reached.set_result(None)

            await asyncio.Event().wait()

    async def live() -> None:
        async with daemon(root, processes, hook=hook, **options) as life:
            await work(life)

    task = loop.create_task(live())
    loop.run_until_complete(_first(task, reached))
    if reached.done():
        _KILLED.append((loop, task, asyncio.all_tasks(loop)))
        return True

    task.result()
    loop.close()
    return False


async def _first(*ends: asyncio.Future[None]) -> None:
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
