"""Moments on an installed host: copies of raw files, made while the guest stands still."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.unit.daemon.snapshots.disks import memory, read, set_memory, write
from tests.unit.daemon.vms.asking import back, do, keep
from tests.unit.daemon.vms.installed import Root
from tests.unit.daemon.vms.world import (
    Daemon,
    daemon,
    failed_with,
    killed_at,
    leftovers,
    paths_below,
)

from banger.api.errors import ErrorCode
from banger.api.models import (
    CreateVM,
    ForkVM,
    MakeTemplate,
    VMState,
)
from banger.api.sizes import GIB
from banger.daemon.paths.copied import Copied
from banger.daemon.paths.steps import HeardLaunch, Known, RootDevice, Tap
from banger.daemon.snapshots.checkpoint import KEEP_STEPS, LASTING_STEPS, MEMORY_STEPS, STILL_STEPS
from banger.daemon.vms.layers import NextDisks
from banger.daemon.vms.restore import Identity
from banger.daemon.vms.start import Initrd, RunDirectory
from banger.daemon.vms.suspend import SUSPEND_STEPS
from banger.host.resources import measure_room
from banger.privileged import ops
from banger.storage.files import copy_whole

RUN = [step.name for step in (RunDirectory, Tap, Known, RootDevice, Initrd, HeardLaunch)]
GO_ON = [NextDisks.name, *RUN, Identity.name]
LIVE = [step.name for step in (*LASTING_STEPS, *MEMORY_STEPS, *KEEP_STEPS)]
STILL = [step.name for step in (*STILL_STEPS, *KEEP_STEPS)]


@pytest.fixture
def life(tmp_path: Path, root: Root) -> Callable[..., Any]:
    return partial(daemon, tmp_path, root.processes, path=root.open)


@pytest.fixture
async def host(life: Callable[..., Any]) -> AsyncIterator[Daemon]:
    async with life() as one:
        assert failed_with(await one.create("dev")) is None
        yield one


def files(life: Daemon) -> set[str]:
    return {path.name for path in life.site.paths.disks.glob("*")}


async def test_a_running_vm_stays_with_its_disks_and_can_go_back(host: Daemon, root: Root) -> None:
    own = files(host)
    await write(host, "dev", "root", 0, 1)
    await write(host, "dev", "work", 0, 1)
    await set_memory(host, "dev", "then")
    assert await keep(host, "first") is None
    assert own < files(host)
    assert len(files(host)) == 4

    await write(host, "dev", "root", 0, 2)
    await write(host, "dev", "work", 0, 2)
    await set_memory(host, "dev", "now")
    for _again in range(2):
        assert await back(host, "first") is None
        assert await read(host, "dev", "root", 1) == [1]
        assert await read(host, "dev", "work", 1) == [1]
        assert await memory(host, "dev") == "then"
        await write(host, "dev", "root", 0, 3)
        await write(host, "dev", "work", 0, 3)

    assert (len(root.processes.alive), len(root.snapshots)) == (1, 1)
    assert failed_with(await host.done(await host.snapshots.delete("dev", "first"))) is None
    assert len(files(host)) == 2


async def test_what_the_device_holds_back_is_in_the_copy(
    host: Daemon, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root is asked to flush before the guest stands still, and again when it does."""
    seen: list[str] = []
    row = await host.site.store.find_vm("dev")
    assert row.handles.vmm is not None
    guest = host.hypervisor.guest(row.handles.vmm)
    flush, clone = root._flush_snapshot, Copied.clone

    def flushed(request: ops.FlushSnapshot) -> None:
        flush(request)
        seen.append(f"flush, {'still' if guest.paused else 'running'}")

    async def copied(self: Copied, origin: Path, disk: Path) -> None:
        seen.append(f"copy {origin.suffix}, {'still' if guest.paused else 'running'}")
        await clone(self, origin, disk)

    monkeypatch.setattr(root, "_flush_snapshot", flushed)
    monkeypatch.setattr(Copied, "clone", copied)
    assert await keep(host, "first") is None
    assert seen == ["flush, running", "flush, still", "copy .cow, still", "copy .raw, still"]
    assert not guest.paused


@pytest.mark.parametrize("trouble", ["flush", "copy"])
async def test_a_moment_that_cannot_be_kept_leaves_a_vm_that_goes_on(
    host: Daemon, root: Root, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    await set_memory(host, "dev", "now")
    before = files(host)
    if trouble == "flush":
        root.failing.add(ops.FlushSnapshot)
    else:

        async def full(self: Copied, origin: Path, disk: Path) -> None:
            copy_whole(origin, disk)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Copied, "clone", full)

    assert await keep(host, "first") is not None
    assert await memory(host, "dev") == "now"
    await host.collector.collect()
    assert files(host) == before
    assert list(host.site.paths.snapshots.iterdir()) == []
    root.failing.clear()
    monkeypatch.undo()
    assert await keep(host, "first") is None


async def test_what_others_need_to_write_is_not_taken_from_them(
    host: Daemon, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is written whole, and the kernel gives up a device whose file cannot grow."""
    vm = (await host.vms.show("dev")).spec
    free = vm.memory + measure_room(host.site.paths.state).reserve - 1
    monkeypatch.setattr("banger.host.resources.free_bytes", lambda _: free)
    root.flushed.clear()
    for refused in (await keep(host, "first"), await do(host, "suspend")):
        assert refused is ErrorCode.INSUFFICIENT_DISK

    assert root.flushed == []
    assert (await host.vms.show("dev")).state is VMState.RUNNING
    monkeypatch.undo()
    assert await keep(host, "first") is None
    monkeypatch.setattr("banger.host.resources.free_bytes", lambda _: 0)
    assert await back(host, "first") is ErrorCode.INSUFFICIENT_DISK


async def test_children_have_devices_and_taps_of_their_own(host: Daemon, root: Root) -> None:
    await write(host, "dev", "root", 1, 7)
    await set_memory(host, "dev", "shared")
    request = ForkVM(count=3, name="kid-{n}")
    assert failed_with(await host.done(await host.snapshots.fork("dev", request))) is None

    names = ("dev", "kid-1", "kid-2", "kid-3")
    rows = [await host.site.store.find_vm(name) for name in names]
    assert len({row.handles.tap for row in rows}) == len(names)
    assert {row.handles.tap for row in rows} == root.speakers
    assert len({row.handles.address for row in rows}) == len(names)
    assert root.snapshots.keys() == {f"fc-rootfs-{row.id}" for row in rows}
    for name in names:
        assert await memory(host, name) == "shared"
        await write(host, name, "root", 0, len(name) + int(name[-1:].replace("v", "0")))
        assert (await read(host, name, "root", 2))[1] == 7

    await host.collector.collect()
    assert len(files(host)) == 2 * len(names)
    for name in names:
        assert await do(host, "delete", name) is None

    assert (files(host), root.snapshots, root.speakers) == (set(), {}, set())


async def test_a_suspended_vm_goes_on_with_its_own_files(host: Daemon, root: Root) -> None:
    before = files(host)
    await write(host, "dev", "work", 0, 4)
    await set_memory(host, "dev", "then")
    assert await do(host, "suspend") is None
    assert (root.processes.alive, root.snapshots, root.speakers) == ({}, {}, set())
    assert files(host) == before

    assert await do(host, "start") is None
    assert (files(host), await memory(host, "dev")) == (before, "then")
    assert await read(host, "dev", "work", 1) == [4]
    assert (await host.site.store.find_vm("dev")).handles.memory is None


async def test_a_guest_that_goes_on_needs_no_initrd_and_one_that_boots_again_does(
    host: Daemon,
) -> None:
    row = await host.site.store.find_vm("dev")
    initrd = Path(row.handles.vm_dir) / "initrd"
    assert initrd.exists()
    for verb, there in (("suspend", False), ("start", False), ("restart", True)):
        assert await do(host, verb) is None
        assert initrd.exists() is there, verb


async def test_a_template_is_silent_and_clones_of_it_are_not(
    life: Callable[..., Any], root: Root
) -> None:
    async with life(templates_size=GIB) as host:
        made = await host.done(await host.templates.make(MakeTemplate()))
        assert failed_with(made) is None
        assert (root.processes.alive, root.snapshots, root.speakers) == ({}, {}, set())

        assert failed_with(await host.done(await host.vms.create(CreateVM(name="dev")))) is None
        assert (await host.vms.show("dev")).template is not None
        assert len(root.speakers) == 1
        await write(host, "dev", "root", 0, 5)
        assert failed_with(await host.done(await host.vms.create(CreateVM(name="two")))) is None
        assert await read(host, "two", "root", 1) == [0]
        await host.quiet()


async def test_one_that_stands_by_is_found_by_its_name_once_it_is_somebodys(
    life: Callable[..., Any], root: Root
) -> None:
    async with life(templates_size=GIB, standby=True) as host:
        assert failed_with(await host.done(await host.templates.make(MakeTemplate()))) is None
        assert failed_with(await host.done(await host.vms.create(CreateVM(name="one")))) is None
        await host.quiet()
        assert len(root.processes.alive) == 2
        names = host.site.paths.ssh_names
        assert [path.name for path in names.iterdir()] == ["one.vm"]

        pids = {handle.pid for handle in root.processes.alive.values()}
        assert failed_with(await host.done(await host.vms.create(CreateVM(name="two")))) is None
        assert (await host.vms.show("two")).pid in pids
        assert {path.name for path in names.iterdir()} == {"one.vm", "two.vm"}
        await host.quiet()

    assert len(root.processes.alive) == 2
    assert len(root.snapshots) == len(root.speakers) == 2


@pytest.mark.parametrize("place", LIVE)
def test_a_daemon_killed_while_it_keeps_a_running_vm_leaves_it_running(
    tmp_path: Path, root: Root, place: str
) -> None:
    async def before(one: Daemon) -> None:
        await one.create("dev")
        await write(one, "dev", "work", 0, 1)
        await set_memory(one, "dev", "now")
        await keep(one, "doomed")

    async def after() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as two:
            await two.quiet()
            assert (await two.vms.show("dev")).state is VMState.RUNNING
            assert await memory(two, "dev") == "now"
            assert await read(two, "dev", "work", 1) == [1]
            await two.collector.collect()
            assert len(files(two)) == 2
            assert await keep(two, "doomed") is None
            assert await back(two, "doomed") is None
            assert await do(two, "delete") is None
            await two.collector.collect()

    assert killed_at(("snapshot", place), tmp_path, root.processes, before, path=root.open)
    asyncio.run(after())
    assert leftovers(tmp_path, root.processes) == []
    assert list(paths_below(tmp_path).disks.iterdir()) == []


@pytest.mark.parametrize("place", STILL)
def test_a_daemon_killed_while_it_keeps_a_stopped_vm_leaves_it_stopped(
    tmp_path: Path, root: Root, place: str
) -> None:
    async def before(one: Daemon) -> None:
        await one.create("dev")
        await write(one, "dev", "work", 0, 1)
        await do(one, "stop")
        await keep(one, "doomed")

    async def after() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as two:
            await two.quiet()
            assert (await two.vms.show("dev")).state is VMState.STOPPED
            assert await read(two, "dev", "work", 1) == [1]
            await two.collector.collect()
            assert len(files(two)) == 2
            assert await do(two, "start") is None

    assert killed_at(("snapshot", place), tmp_path, root.processes, before, path=root.open)
    asyncio.run(after())


@pytest.mark.parametrize("place", GO_ON)
def test_a_daemon_killed_while_a_vm_goes_back_loses_neither_moment(
    tmp_path: Path, root: Root, place: str
) -> None:
    async def before(one: Daemon) -> None:
        await one.create("dev")
        await write(one, "dev", "root", 0, 1)
        await set_memory(one, "dev", "then")
        await keep(one, "first")
        await write(one, "dev", "root", 0, 2)
        await back(one, "first")

    async def after() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as two:
            await two.quiet()
            assert (await two.vms.show("dev")).state is VMState.STOPPED
            assert (root.processes.alive, root.snapshots, root.speakers) == ({}, {}, set())
            assert await read(two, "dev", "root", 1) == [2]
            assert await back(two, "first") is None
            assert await memory(two, "dev") == "then"
            assert await read(two, "dev", "root", 1) == [1]

    assert killed_at(("restore", place), tmp_path, root.processes, before, path=root.open)
    asyncio.run(after())


@pytest.mark.parametrize("place", [step.name for step in SUSPEND_STEPS] + RUN)
def test_a_daemon_killed_while_suspending_loses_nothing(
    tmp_path: Path, root: Root, place: str
) -> None:
    async def before(one: Daemon) -> None:
        await one.create("dev")
        await write(one, "dev", "work", 0, 1)
        await set_memory(one, "dev", "now")
        await do(one, "suspend")

    async def after() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as two:
            await two.quiet()
            if (await two.vms.show("dev")).state is VMState.SUSPENDED:
                assert (root.processes.alive, root.snapshots, root.speakers) == ({}, {}, set())
                assert await do(two, "start") is None

            assert await memory(two, "dev") == "now"
            assert await read(two, "dev", "work", 1) == [1]

    assert killed_at(("suspend", place), tmp_path, root.processes, before, path=root.open)
    asyncio.run(after())


@pytest.mark.parametrize("place", GO_ON)
def test_memory_is_not_gone_on_from_once_its_disks_may_be_others(
    tmp_path: Path, root: Root, place: str
) -> None:
    """A suspended VM writes to the very disks its memory belongs to, as soon as it goes on."""

    async def before() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as one:
            await one.create("dev")
            await write(one, "dev", "work", 0, 1)
            await set_memory(one, "dev", "then")
            await do(one, "suspend")

    async def start(one: Daemon) -> None:
        await do(one, "start")

    async def after() -> None:
        async with daemon(tmp_path, root.processes, path=root.open) as two:
            await two.quiet()
            state = (await two.vms.show("dev")).state
            assert state in (VMState.SUSPENDED, VMState.STOPPED)
            assert (root.processes.alive, root.snapshots, root.speakers) == ({}, {}, set())
            assert await do(two, "start") is None
            remembers = await memory(two, "dev") == "then"
            assert remembers == (state is VMState.SUSPENDED)
            assert await read(two, "dev", "work", 1) == [1]

    asyncio.run(before())
    assert killed_at(("start", place), tmp_path, root.processes, start, path=root.open)
    asyncio.run(after())


def test_a_copy_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copy = tmp_path / "source.cow", tmp_path / "copy.cow"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        for place in (0, 5 << 20, (1 << 30) - 4096):
            os.pwrite(file.fileno(), os.urandom(4096), place)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("banger.storage.files._copy_extent", killed)
        patch.setattr("banger.storage.files._share", lambda *_: False)
        with pytest.raises(KeyboardInterrupt):
            copy_whole(source, copy)

    assert not copy.exists()
    (tmp_path / "copy.cow.part").write_text("of an attempt that was cut short")
    copy_whole(source, copy)
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert copy.stat().st_size == source.stat().st_size
    for place in (0, 4096, 5 << 20, (1 << 30) - 4096):
        assert _block(copy, place) == _block(source, place)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.cow", "source.cow"]


def _block(path: Path, place: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), 4096, place)


MAKE = [
    *("directory", "host key", "root disk", "work disk", "run directory", "tap", "root device"),
    *("initrd", "launch", "boot", "settle", "save", "convert", "disks", "sync"),
]


@pytest.mark.parametrize("place", MAKE)
def test_a_daemon_killed_while_it_makes_a_template_leaves_nothing(
    tmp_path: Path, root: Root, place: str
) -> None:
    """Not the VMM, the device or the tap of a guest that no row of a VM tells of."""
    opened: dict[str, Any] = {"path": root.open, "templates_size": GIB}

    async def before(one: Daemon) -> None:
        await one.done(await one.templates.make(MakeTemplate()))

    async def after() -> None:
        async with daemon(tmp_path, root.processes, **opened) as two:
            await two.quiet()
            assert (root.processes.alive, root.snapshots, root.speakers) == ({}, {}, set())
            assert await two.templates.list() == []
            assert files(two) == set()
            await two.create("dev")
            await two.quiet()
            assert len(await two.templates.list()) == 1
            assert (len(root.processes.alive), len(root.snapshots)) == (1, 1)

    assert killed_at(("template", place), tmp_path, root.processes, before, **opened)
    asyncio.run(after())
