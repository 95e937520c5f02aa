"""Snapshots: what they keep, what going back brings, and what harms neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.daemon.snapshots.disks import memory, read, set_memory, write
from tests.unit.daemon.vms.asking import back, do, keep, state
from tests.unit.daemon.vms.world import (
    Daemon,
    Processes,
    daemon,
    failed_with,
    killed_at,
    leftovers,
    paths_below,
)

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import CreateSnapshot, RestoreSnapshot, UpdateVM, VMState
from banger.api.sizes import MIB
from banger.channel.requests import Freeze, Identity, Sync
from banger.daemon.paths.embedded import RUN_STEPS
from banger.daemon.snapshots.checkpoint import KEEP_STEPS, LASTING_STEPS, MEMORY_STEPS, STILL_STEPS
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.lifecycle import go_on_steps
from banger.hypervisor.base import VMMHandle
from banger.storage.layers import MAX_DEPTH, chain


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes) as life:
        assert failed_with(await life.create("dev")) is None
        yield life


async def drop(life: Daemon, name: str) -> ErrorCode | str | None:
    return failed_with(await life.done(await life.snapshots.delete("dev", name)))


def layers(root: Path) -> list[str]:
    return sorted(path.name for path in paths_below(root).disks.iterdir())


async def test_a_running_vm_goes_on_and_can_go_back(host: Daemon) -> None:
    await write(host, "dev", "work", 0, 1)
    await set_memory(host, "dev", "then")
    before = await host.vms.show("dev")
    assert await keep(host, "first") is None

    vm = await host.vms.show("dev")
    assert (vm.state, vm.pid, vm.operation) == (VMState.RUNNING, before.pid, None)
    assert await memory(host, "dev") == "then"
    await set_memory(host, "dev", "now")
    await write(host, "dev", "work", 0, 2)
    for _again in range(2):
        assert await back(host, "first") is None
        assert await memory(host, "dev") == "then"
        assert await read(host, "dev", "work", 1) == [1]
        await write(host, "dev", "work", 0, 3)


async def test_the_vm_that_goes_back_stays_who_it_is(host: Daemon) -> None:
    await keep(host, "first")
    before, endpoint = await host.vms.show("dev"), await host.vms.ssh("dev")
    host.guests.asked.clear()
    await back(host, "first")

    after = await host.vms.show("dev")
    assert (after.id, after.address, after.ssh_port) == (before.id, before.address, before.ssh_port)
    assert await host.vms.ssh("dev") == endpoint
    (identity,) = [asked for asked in host.guests.asked if isinstance(asked, Identity)]
    assert identity.hostname == "dev"
    assert identity.clock is not None
    assert after.pid != before.pid


async def test_what_the_guest_wrote_is_on_its_disks_before_it_stands_still(host: Daemon) -> None:
    host.guests.asked.clear()
    await keep(host, "first")
    kinds = [type(asked) for asked in host.guests.asked]
    assert kinds.index(Sync) < kinds.index(Freeze) < kinds.index(Identity)


async def test_the_disks_alone_can_be_gone_back_to(host: Daemon) -> None:
    await write(host, "dev", "root", 2, 5)
    await keep(host, "first")
    await write(host, "dev", "root", 2, 6)
    assert await back(host, "first", memory=False) is None

    assert await state(host) is VMState.STOPPED
    assert (await read(host, "dev", "root", 3))[2] == 5
    assert await do(host, "start") is None
    assert (await memory(host, "dev")).startswith("boot")


async def test_a_stopped_vm_is_kept_and_brought_back_without_memory(host: Daemon) -> None:
    await write(host, "dev", "work", 0, 1)
    await do(host, "stop")
    assert await keep(host, "cold") is None
    shown = await host.snapshots.show("dev", "cold")
    assert not shown.memory

    await do(host, "start")
    await write(host, "dev", "work", 0, 2)
    assert await back(host, "cold") is None
    assert await state(host) is VMState.STOPPED
    assert await read(host, "dev", "work", 1) == [1]


async def test_snapshots_are_listed_by_age_and_found_by_name_and_id(host: Daemon) -> None:
    for name in ("b", "a"):
        await keep(host, name)

    made = await host.snapshots.list("dev")
    assert [snapshot.name for snapshot in made] == ["b", "a"]
    assert await host.snapshots.show("dev", made[0].id) == made[0]
    assert made[0].memory
    assert made[0].allocated_bytes > 0
    with pytest.raises(CallerError, match="no snapshot 'c'"):
        await host.snapshots.show("dev", "c")


async def test_a_snapshot_gets_a_name_and_no_name_twice(host: Daemon) -> None:
    assert (
        failed_with(await host.done(await host.snapshots.create("dev", CreateSnapshot()))) is None
    )
    (made,) = await host.snapshots.list("dev")
    with pytest.raises(CallerError, match="already") as error:
        await host.snapshots.create("dev", CreateSnapshot(name=made.name))

    assert error.value.code == ErrorCode.NAME_TAKEN


async def test_deleting_one_harms_neither_the_vm_nor_others(host: Daemon, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c"), 1):
        await write(host, "dev", "work", 0, number)
        await keep(host, name)

    await write(host, "dev", "work", 0, 9)
    assert await drop(host, "b") is None
    assert await read(host, "dev", "work", 1) == [9]
    assert await back(host, "a") is None
    assert await read(host, "dev", "work", 1) == [1]
    assert await drop(host, "a") is None
    assert await back(host, "c") is None
    assert await read(host, "dev", "work", 1) == [3]
    await drop(host, "c")
    assert list(paths_below(tmp_path).snapshots.glob("*")) == []
    assert await read(host, "dev", "work", 1) == [3]


async def test_nothing_is_left_of_a_vm_and_its_snapshots(
    host: Daemon, tmp_path: Path, processes: Processes
) -> None:
    await keep(host, "a")
    await do(host, "suspend")
    await do(host, "start")
    await keep(host, "b")
    await back(host, "a")
    await do(host, "delete")
    await host.collector.collect()

    assert leftovers(tmp_path, processes) == []
    assert layers(tmp_path) == []
    assert list(paths_below(tmp_path).snapshots.glob("*")) == []
    assert await host.site.store.snapshots() == []


async def test_the_shape_comes_back_and_what_the_host_gives_stays(host: Daemon) -> None:
    await keep(host, "small")
    await do(host, "stop")
    request = UpdateVM(name="prod", vcpus=2, nat=True, disk_size=8 * MIB)
    assert failed_with(await host.done(await host.vms.update("dev", request))) is None
    restore = await host.snapshots.restore("prod", "small", RestoreSnapshot())
    assert failed_with(await host.done(restore)) is None

    vm = await host.vms.show("prod")
    assert (vm.spec.vcpus, vm.spec.disk_size, vm.spec.nat) == (1, 4 * MIB, True)


async def test_a_work_disk_that_has_layers_grows_and_the_snapshot_does_not(host: Daemon) -> None:
    await write(host, "dev", "work", 40, 4)
    await keep(host, "small")
    await do(host, "stop")
    request = UpdateVM(disk_size=8 * MIB)
    assert failed_with(await host.done(await host.vms.update("dev", request))) is None
    row = await host.site.store.find_vm("dev")
    assert (row.handles.disks.work.format, row.handles.next) == ("raw", None)
    assert Path(row.handles.disks.work.path).stat().st_size == 8 * MIB
    assert (await read(host, "dev", "work", 41))[40] == 4
    assert await back(host, "small") is None


async def test_memory_of_another_vmm_is_refused_before_anything_is_given_up(host: Daemon) -> None:
    await keep(host, "old")
    await set_memory(host, "dev", "now")
    host.hypervisor.version = "2"
    operation = await host.done(await host.snapshots.restore("dev", "old", RestoreSnapshot()))

    assert failed_with(operation) == ErrorCode.RESTORE_FAILED
    assert operation.error is not None
    assert "--disks-only" in str(operation.error.hint)
    assert await memory(host, "dev") == "now"
    assert await back(host, "old", memory=False) is None


async def test_a_vm_that_cannot_go_back_keeps_the_disks_it_had(host: Daemon) -> None:
    await keep(host, "first")
    await write(host, "dev", "work", 0, 8)
    host.hypervisor.failing.add("launch")
    assert await back(host, "first") is not None

    row = await host.site.store.find_vm("dev")
    assert (row.state, row.handles.next) == (VMState.STOPPED, None)
    assert await read(host, "dev", "work", 1) == [8]
    host.hypervisor.failing.clear()
    assert await back(host, "first") is None


@pytest.mark.parametrize("broken", ["save", "save, disks switched", "convert"])
async def test_a_snapshot_that_fails_leaves_a_vm_that_goes_on(
    host: Daemon, tmp_path: Path, broken: str
) -> None:
    await write(host, "dev", "work", 0, 1)
    await set_memory(host, "dev", "now")
    host.hypervisor.failing.add(broken)
    assert await keep(host, "first") == ErrorCode.SAVE_FAILED

    row = await host.site.store.find_vm("dev")
    assert (row.state, row.handles.next, row.operation) == (VMState.RUNNING, None, None)
    assert await memory(host, "dev") == "now"
    assert await read(host, "dev", "work", 1) == [1]
    assert Path(row.handles.disks.work.path) == host.hypervisor.guest(_vmm(row)).disks["work"]
    assert await host.site.store.snapshots() == []
    assert list(paths_below(tmp_path).snapshots.glob("*")) == []
    host.hypervisor.failing.clear()
    assert await keep(host, "first") is None


async def test_a_guest_whose_agent_is_silent_is_not_kept_and_told_so(host: Daemon) -> None:
    host.guests.boots = False
    operation = await host.done(await host.snapshots.create("dev", CreateSnapshot(name="a")))
    assert failed_with(operation) == ErrorCode.AGENT_UNREACHABLE
    assert await state(host) is VMState.RUNNING
    assert await host.site.store.snapshots() == []


async def test_chains_of_layers_are_bounded(host: Daemon) -> None:
    for number in range(MAX_DEPTH + 3):
        await write(host, "dev", "root", number, number + 1)
        assert await keep(host, f"s{number}") is None
        row = await host.site.store.find_vm("dev")
        assert len(chain(Path(row.handles.disks.root.path))) <= MAX_DEPTH

    assert await read(host, "dev", "root", 4) == [1, 2, 3, 4]
    assert await back(host, "s1") is None
    assert await read(host, "dev", "root", 4) == [1, 2, 0, 0]


LIVE = [step.name for step in (*LASTING_STEPS, *MEMORY_STEPS, *KEEP_STEPS)]
STILL = [step.name for step in (*STILL_STEPS, *KEEP_STEPS)]


@pytest.mark.parametrize("place", LIVE)
def test_a_daemon_killed_while_it_keeps_a_running_vm_leaves_it_running(
    tmp_path: Path, processes: Processes, place: str
) -> None:
    async def before(life: Daemon) -> None:
        await life.create("dev")
        await write(life, "dev", "work", 0, 1)
        await set_memory(life, "dev", "now")
        await keep(life, "doomed")

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            row = await life.site.store.find_vm("dev")
            assert (row.state, row.handles.next, row.operation) == (VMState.RUNNING, None, None)
            assert await memory(life, "dev") == "now"
            assert await read(life, "dev", "work", 1) == [1]
            assert row.handles.disks.work.path == str(
                life.hypervisor.guest(_vmm(row)).disks["work"]
            )
            assert await life.site.store.snapshots() == []
            await life.collector.collect()
            assert list(paths_below(tmp_path).snapshots.glob("*")) == []
            assert await keep(life, "doomed") is None
            assert await back(life, "doomed") is None
            assert await do(life, "delete") is None
            await life.collector.collect()
            assert layers(tmp_path) == []

    assert killed_at(("snapshot", place), tmp_path, processes, before)
    asyncio.run(after())


@pytest.mark.parametrize("place", LIVE)
def test_a_vmm_that_dies_with_the_daemon_loses_nothing_its_guest_wrote(
    tmp_path: Path, processes: Processes, place: str
) -> None:
    async def before(life: Daemon) -> None:
        await life.create("dev")
        await write(life, "dev", "work", 0, 1)
        await keep(life, "doomed")

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            row = await life.site.store.find_vm("dev")
            assert (row.state, row.handles.next) == (VMState.STOPPED, None)
            assert await read(life, "dev", "work", 1) == [1]
            assert await do(life, "start") is None

    assert killed_at(("snapshot", place), tmp_path, processes, before)
    processes.alive.clear()
    asyncio.run(after())


@pytest.mark.parametrize("place", STILL)
def test_a_daemon_killed_while_it_keeps_a_stopped_vm_leaves_it_stopped(
    tmp_path: Path, processes: Processes, place: str
) -> None:
    async def before(life: Daemon) -> None:
        await life.create("dev")
        await write(life, "dev", "work", 0, 1)
        await do(life, "stop")
        await keep(life, "doomed")

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            row = await life.site.store.find_vm("dev")
            assert (row.state, row.handles.next, row.operation) == (VMState.STOPPED, None, None)
            assert await read(life, "dev", "work", 1) == [1]
            assert await life.site.store.snapshots() == []
            assert await do(life, "start") is None

    assert killed_at(("snapshot", place), tmp_path, processes, before)
    asyncio.run(after())


@pytest.mark.parametrize("place", [step.name for step in go_on_steps(RUN_STEPS)])
def test_a_daemon_killed_while_a_vm_goes_back_loses_neither_moment(
    tmp_path: Path, processes: Processes, place: str
) -> None:
    async def before(life: Daemon) -> None:
        await life.create("dev")
        await write(life, "dev", "work", 0, 1)
        await set_memory(life, "dev", "then")
        await keep(life, "first")
        await write(life, "dev", "work", 0, 2)
        await back(life, "first")

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            row = await life.site.store.find_vm("dev")
            assert (row.state, row.handles.next, row.operation) == (VMState.STOPPED, None, None)
            assert processes.alive == {}
            assert await read(life, "dev", "work", 1) == [2]
            assert await back(life, "first") is None
            assert await memory(life, "dev") == "then"
            assert await read(life, "dev", "work", 1) == [1]

    assert killed_at(("restore", place), tmp_path, processes, before)
    asyncio.run(after())


def _vmm(row: VMRow) -> VMMHandle:
    assert row.handles.vmm is not None
    return row.handles.vmm
