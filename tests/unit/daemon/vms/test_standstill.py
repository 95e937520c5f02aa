"""Pausing, resuming and suspending: what it does to a VM, and what happens when it is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.daemon.snapshots.disks import memory, read, set_memory, write
from tests.unit.daemon.vms.asking import do, state
from tests.unit.daemon.vms.world import Daemon, Processes, daemon, failed_with, killed_at, leftovers

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import CreateSnapshot, ForkVM, KillVM, UpdateVM, VMState
from banger.channel.requests import Identity, PowerOff
from banger.daemon.paths.embedded import RUN_STEPS
from banger.daemon.vms.suspend import SUSPEND_STEPS


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes) as life:
        assert failed_with(await life.create("dev")) is None
        yield life


async def test_a_paused_vm_keeps_its_vmm_and_goes_on_with_its_clock_set(host: Daemon) -> None:
    before = await host.vms.show("dev")
    assert await do(host, "pause") is None
    assert (await host.vms.show("dev")).pid == before.pid
    assert await state(host) is VMState.PAUSED

    host.guests.asked.clear()
    assert await do(host, "resume") is None
    assert await state(host) is VMState.RUNNING
    (woken,) = [asked for asked in host.guests.asked if isinstance(asked, Identity)]
    assert woken.clock is not None
    assert woken.entropy is not None
    assert woken.hostname is None


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_what_is_so_already_is_no_error(host: Daemon, verb: str) -> None:
    await do(host, "pause")
    for _twice in range(2):
        assert await do(host, verb) is None


async def test_a_paused_vm_says_how_it_can_be_used_again(host: Daemon) -> None:
    await do(host, "pause")
    for refused in (host.vms.ssh, host.vms.agent):
        with pytest.raises(CallerError, match="is paused") as error:
            await refused("dev")

        assert error.value.hint == "resume it: banger vm resume dev"

    operation = await host.done(await host.snapshots.create("dev", CreateSnapshot()))
    assert failed_with(operation) == ErrorCode.VM_NOT_RUNNING
    assert await do(host, "suspend") == ErrorCode.VM_NOT_RUNNING
    with pytest.raises(CallerError, match="is paused"):
        await host.snapshots.fork("dev", ForkVM())


@pytest.mark.parametrize("verb", ["stop", "restart", "delete", "start"])
async def test_a_paused_vm_can_be_ended_in_every_way(
    host: Daemon, tmp_path: Path, processes: Processes, verb: str
) -> None:
    await do(host, "pause")
    assert await do(host, verb) is None
    if verb == "delete":
        assert leftovers(tmp_path, processes) == []
        return

    assert await state(host) is (VMState.STOPPED if verb == "stop" else VMState.RUNNING)
    assert (PowerOff() in host.guests.asked) == (verb != "start")


async def test_a_paused_vm_that_is_killed_is_stopped(host: Daemon) -> None:
    await do(host, "pause")
    await host.done(await host.vms.kill("dev", KillVM()))
    assert await state(host) is VMState.STOPPED


async def test_the_end_of_a_paused_vmm_is_seen(host: Daemon) -> None:
    await do(host, "pause")
    handle = (await host.site.store.find_vm("dev")).handles.vmm
    assert handle is not None
    host.hypervisor.end(handle)
    await host.quiet()
    assert await state(host) is VMState.STOPPED


async def test_a_stopped_vm_is_neither_paused_nor_resumed_nor_suspended(host: Daemon) -> None:
    await do(host, "stop")
    for verb in ("pause", "resume", "suspend"):
        assert await do(host, verb) == ErrorCode.VM_NOT_RUNNING


async def test_a_suspended_vm_goes_on_with_its_memory_and_disks(host: Daemon) -> None:
    await set_memory(host, "dev", "a thought")
    await write(host, "dev", "work", 1, 7)
    assert await do(host, "suspend") is None

    vm = await host.vms.show("dev")
    assert (vm.state, vm.pid, vm.operation) == (VMState.SUSPENDED, None, None)
    assert host.hypervisor.processes.alive == {}

    assert await do(host, "start") is None
    assert await memory(host, "dev") == "a thought"
    assert (await read(host, "dev", "work", 2))[1] == 7
    row = await host.site.store.find_vm("dev")
    assert (row.state, row.handles.memory, row.handles.next) == (VMState.RUNNING, None, None)
    assert not (Path(row.handles.vm_dir) / "memory").exists()


async def test_a_suspended_vm_that_is_stopped_gives_its_memory_up(host: Daemon) -> None:
    await set_memory(host, "dev", "a thought")
    await do(host, "suspend")
    assert await do(host, "stop") is None

    row = await host.site.store.find_vm("dev")
    assert (row.state, row.handles.memory) == (VMState.STOPPED, None)
    assert not (Path(row.handles.vm_dir) / "memory").exists()
    await do(host, "start")
    assert await memory(host, "dev") != "a thought"


async def test_a_suspended_vm_can_be_deleted_but_not_changed(
    host: Daemon, tmp_path: Path, processes: Processes
) -> None:
    await do(host, "suspend")
    changed = await host.done(await host.vms.update("dev", UpdateVM(vcpus=2)))
    assert failed_with(changed) == ErrorCode.VM_RUNNING
    assert await do(host, "delete") is None
    assert leftovers(tmp_path, processes) == []


async def test_a_suspended_vm_survives_a_reboot_of_the_host(
    tmp_path: Path, processes: Processes
) -> None:
    async with daemon(tmp_path, processes) as life:
        await life.create("dev")
        await set_memory(life, "dev", "a thought")
        await do(life, "suspend")

    processes.alive.clear()
    async with daemon(tmp_path, processes, host_boot_id="boot 2") as life:
        await life.quiet()
        assert await state(life) is VMState.SUSPENDED
        assert await do(life, "start") is None
        assert await memory(life, "dev") == "a thought"


@pytest.mark.parametrize("broken", ["launch", "resume"])
async def test_a_suspended_vm_that_cannot_go_on_is_as_before(host: Daemon, broken: str) -> None:
    await set_memory(host, "dev", "a thought")
    await write(host, "dev", "root", 0, 3)
    await do(host, "suspend")
    before = (await host.site.store.find_vm("dev")).handles
    host.hypervisor.failing.add(broken)
    assert await do(host, "start") is not None

    row = await host.site.store.find_vm("dev")
    assert (row.state, row.handles.disks) == (VMState.SUSPENDED, before.disks)
    assert (row.handles.next, row.handles.memory) == (None, before.memory)
    host.hypervisor.failing.clear()
    assert await do(host, "start") is None
    assert await memory(host, "dev") == "a thought"
    assert (await read(host, "dev", "root", 1)) == [3]


async def test_memory_that_another_vmm_saved_is_kept_until_it_is_given_up(host: Daemon) -> None:
    await do(host, "suspend")
    host.hypervisor.version = "2"
    operation = await host.done(await host.vms.start("dev"))

    assert failed_with(operation) == ErrorCode.RESTORE_FAILED
    assert operation.error is not None
    assert "banger vm stop dev" in str(operation.error.hint)
    assert await state(host) is VMState.SUSPENDED
    assert await do(host, "stop") is None
    assert await do(host, "start") is None


@pytest.mark.parametrize("broken", ["save", "convert"])
async def test_a_vm_that_cannot_be_suspended_runs_on(host: Daemon, broken: str) -> None:
    await set_memory(host, "dev", "a thought")
    host.hypervisor.failing.add(broken)
    assert await do(host, "suspend") == ErrorCode.SAVE_FAILED

    vm = await host.vms.show("dev")
    assert (vm.state, vm.operation) == (VMState.RUNNING, None)
    assert await memory(host, "dev") == "a thought"


PLACES = [*(step.name for step in SUSPEND_STEPS), *(step.name for step in RUN_STEPS)]


@pytest.mark.parametrize("place", PLACES)
def test_a_daemon_that_is_killed_while_suspending_loses_nothing(
    tmp_path: Path, processes: Processes, place: str
) -> None:
    async def before(life: Daemon) -> None:
        await life.create("dev")
        await set_memory(life, "dev", "a thought")
        await do(life, "suspend")

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            if place in [step.name for step in SUSPEND_STEPS]:
                assert await state(life) is VMState.RUNNING
            else:
                assert await state(life) is VMState.SUSPENDED
                assert processes.alive == {}
                assert await do(life, "start") is None

            assert await memory(life, "dev") == "a thought"

    assert killed_at(("suspend", place), tmp_path, processes, before)
    asyncio.run(after())


@pytest.mark.parametrize("row_state", [VMState.RUNNING, VMState.PAUSED])
async def test_the_row_decides_whether_an_interrupted_guest_stands_still(
    tmp_path: Path, processes: Processes, row_state: VMState
) -> None:
    async with daemon(tmp_path, processes) as life:
        await life.create("dev")
        row = await life.site.store.find_vm("dev")
        (guest,) = processes.guests.values()
        guest.paused = row_state is VMState.RUNNING
        guest.frozen = guest.paused
        row = msgspec.structs.replace(row, state=row_state, operation="op-1")
        await life.site.store.save_vm(row)

    async with daemon(tmp_path, processes) as life:
        await life.quiet()
        assert await state(life) is row_state
        assert (await life.vms.show("dev")).operation is None
        assert (guest.paused, guest.frozen) == (row_state is VMState.PAUSED, False)
