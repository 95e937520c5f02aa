"""What the VM commands do and leave, with real files and a VMM that is a table entry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.daemon.vms.world import (
    Daemon,
    Processes,
    daemon,
    failed_with,
    leftovers,
    paths_below,
)

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import CreateVM, KillVM, PortForward, UpdateVM, VMState
from banger.api.sizes import GIB, MIB
from banger.channel.requests import PowerOff
from banger.daemon.vms import guest
from banger.host.files import allocated_bytes
from banger.hypervisor.base import ExitReason


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes) as life:
        yield life


async def test_a_created_vm_runs_and_has_an_endpoint_that_is_known_beforehand(
    host: Daemon,
) -> None:
    assert failed_with(await host.create("dev")) is None

    vm = await host.vms.show("dev")
    endpoint = await host.vms.ssh("dev")
    assert vm.state is VMState.RUNNING
    assert vm.boot_id is not None
    assert endpoint.host_key_alias == vm.id
    assert _content(endpoint.known_hosts_file).startswith(f"{vm.id} ssh-ed25519 ")
    assert "PRIVATE KEY" in _content(endpoint.identity_file)


async def test_creating_without_starting_leaves_it_stopped(host: Daemon) -> None:
    await host.create("dev", start=False)

    vm = await host.vms.show("dev")
    assert (vm.state, vm.pid, vm.operation) == (VMState.STOPPED, None, None)
    with pytest.raises(CallerError) as refused:
        await host.vms.ssh("dev")

    assert refused.value.code == ErrorCode.VM_NOT_RUNNING


async def test_a_list_says_what_the_layers_of_disks_take(host: Daemon) -> None:
    await host.create("dev", start=False)
    disks = (await host.site.store.find_vm("dev")).handles.disks

    [vm] = await host.vms.list()
    taken = sum(allocated_bytes(Path(disk.path)) for disk in (disks.root, disks.work))
    assert vm.allocated_bytes == taken > 0
    assert vm == await host.vms.show("dev")


async def test_deleting_leaves_nothing(host: Daemon, tmp_path: Path, processes: Processes) -> None:
    await host.create("dev")
    await host.done(await host.vms.delete("dev"))

    assert leftovers(tmp_path, processes) == []
    assert await host.vms.list() == []
    assert await host.site.store.leases("port") == set()


async def test_a_guest_that_never_comes_up_is_taken_back_and_its_console_kept(
    host: Daemon, tmp_path: Path, processes: Processes
) -> None:
    host.guests.boots = False
    operation = await host.create("dev")

    assert failed_with(operation) == ErrorCode.LAUNCH_FAILED
    assert leftovers(tmp_path, processes) == []
    assert await host.vms.list() == []


@pytest.mark.parametrize(
    ("free", "code"), [(0, ErrorCode.INSUFFICIENT_DISK), (GIB, ErrorCode.GUEST_TIMEOUT)]
)
async def test_a_guest_that_waits_for_room_on_the_disk_is_told_from_a_silent_one(
    host: Daemon, monkeypatch: pytest.MonkeyPatch, free: int, code: ErrorCode
) -> None:
    monkeypatch.setattr(guest, "BOOT_SECONDS", 0.0)
    monkeypatch.setattr(guest, "free_bytes", lambda _: free)

    assert failed_with(await host.create("dev")) == code


async def test_a_stop_asks_the_guest_first(host: Daemon) -> None:
    await host.create("dev")
    await host.done(await host.vms.stop("dev"))

    assert host.guests.asked[-1] == PowerOff()
    assert (await host.vms.show("dev")).state is VMState.STOPPED


async def test_starting_what_runs_and_stopping_what_does_not_change_nothing(
    host: Daemon,
) -> None:
    await host.create("dev")
    pid = (await host.vms.show("dev")).pid
    assert failed_with(await host.done(await host.vms.start("dev"))) is None
    assert (await host.vms.show("dev")).pid == pid

    for _twice in range(2):
        assert failed_with(await host.done(await host.vms.stop("dev"))) is None


async def test_a_restart_is_a_new_vmm_at_the_same_address(host: Daemon) -> None:
    await host.create("dev")
    before = await host.vms.show("dev")
    await host.done(await host.vms.restart("dev"))

    after = await host.vms.show("dev")
    assert after.pid != before.pid
    assert (after.address, after.ssh_port) == (before.address, before.ssh_port)


async def test_a_killed_vm_is_stopped_and_says_so(host: Daemon) -> None:
    await host.create("dev")
    await host.done(await host.vms.kill("dev", KillVM()))

    vm = await host.vms.show("dev")
    assert (vm.state, vm.reason) == (VMState.STOPPED, "killed")


async def test_a_kill_ends_when_the_vm_is_at_rest_whoever_cleans_up(host: Daemon) -> None:
    await host.create("dev")
    vm_id = (await host.vms.show("dev")).id
    async with host.locks.of(vm_id):
        operation = await host.vms.kill("dev", KillVM())
        while (await host.vms.show("dev")).pid is not None and host.hypervisor.processes.alive:  # noqa: ASYNC110 - what is asked is the API
            await asyncio.sleep(0.01)

    assert failed_with(await host.done(operation)) is None
    vm = await host.vms.show("dev")
    assert (vm.state, vm.reason) == (VMState.STOPPED, "killed")


@pytest.mark.parametrize("reason", [ExitReason.GUEST_POWEROFF, ExitReason.DIED])
async def test_a_vmm_that_ends_by_itself_is_seen_and_cleaned_up_after(
    host: Daemon, tmp_path: Path, reason: ExitReason
) -> None:
    await host.create("dev")
    handle = (await host.site.store.find_vm("dev")).handles.vmm
    assert handle is not None
    host.hypervisor.end(handle, reason)
    await host.quiet()

    vm = await host.vms.show("dev")
    assert (vm.state, vm.reason) == (VMState.STOPPED, str(reason))
    assert list(paths_below(tmp_path).vm_run.iterdir()) == []


async def test_a_guest_that_reboots_is_told_truly_each_time(host: Daemon) -> None:
    await host.create("dev")
    seen = {(await host.vms.show("dev")).boot_id}
    for _ in range(2):
        host.guests.reboot()
        async with asyncio.timeout(10):
            while (boot_id := (await host.vms.show("dev")).boot_id) in seen:  # noqa: ASYNC110 - what is asked is the API
                await asyncio.sleep(0.01)

        seen.add(boot_id)

    vm = await host.vms.show("dev")
    assert (vm.state, len(seen)) == (VMState.RUNNING, 3)


async def test_commands_on_one_vm_wait_for_each_other(host: Daemon) -> None:
    await host.create("dev")
    operations = [
        await host.vms.stop("dev"),
        await host.vms.start("dev"),
        await host.vms.restart("dev"),
        await host.vms.stop("dev"),
    ]
    ends = await asyncio.gather(*map(host.done, operations))

    assert [failed_with(end) for end in ends] == [None] * len(operations)
    assert (await host.vms.show("dev")).state is VMState.STOPPED


async def test_of_two_creations_with_one_name_one_is_refused(host: Daemon) -> None:
    operations = [await host.vms.create(CreateVM(name="dev", start=False)) for _ in range(2)]
    ends = await asyncio.gather(*map(host.done, operations))

    assert sorted(str(failed_with(end)) for end in ends) == ["None", ErrorCode.NAME_TAKEN]
    assert len(await host.vms.list()) == 1


async def test_creations_side_by_side_share_no_name_port_or_address(host: Daemon) -> None:
    operations = [await host.vms.create(CreateVM(start=False)) for _ in range(64)]
    ends = await asyncio.gather(*map(host.done, operations))

    vms = await host.vms.list()
    assert [failed_with(end) for end in ends] == [None] * 64
    assert len({vm.name for vm in vms}) == 64
    assert len({vm.ssh_port for vm in vms}) == 64
    assert len({vm.address for vm in vms}) == 64


async def test_a_vm_goes_with_the_process_that_holds_it(
    host: Daemon, tmp_path: Path, processes: Processes
) -> None:
    holder = await asyncio.create_subprocess_exec("sleep", "60")
    request = CreateVM(name="dev", holder_pid=holder.pid)
    assert failed_with(await host.done(await host.vms.create(request))) is None

    holder.kill()
    await holder.wait()
    async with asyncio.timeout(10):
        while await host.vms.list():  # noqa: ASYNC110 - the end of a process is told by the kernel
            await asyncio.sleep(0.01)

    await host.quiet()
    assert leftovers(tmp_path, processes) == []


async def test_a_holder_that_does_not_exist_is_refused(host: Daemon) -> None:
    nobody = int(_content("/proc/sys/kernel/pid_max")) - 1
    with pytest.raises(CallerError, match="no running process"):
        await host.vms.create(CreateVM(holder_pid=nobody))


async def test_settings_change_while_stopped_only(host: Daemon) -> None:
    await host.create("dev")
    busy = await host.done(await host.vms.update("dev", UpdateVM(vcpus=2)))
    assert failed_with(busy) == ErrorCode.VM_RUNNING

    await host.done(await host.vms.stop("dev"))
    request = UpdateVM(
        name="prod",
        vcpus=2,
        nat=True,
        disk_size=8 * MIB,
        ports=(PortForward(host_port=18080, guest_port=80),),
    )
    assert failed_with(await host.done(await host.vms.update("dev", request))) is None

    spec = (await host.vms.show("prod")).spec
    assert (spec.vcpus, spec.nat, spec.disk_size) == (2, True, 8 * MIB)
    assert "tcp/127.0.0.1:18080" in await host.site.store.leases("port")


async def test_a_work_disk_does_not_shrink_and_nothing_else_changes_with_it(
    host: Daemon,
) -> None:
    await host.create("dev", start=False)
    refused = await host.done(await host.vms.update("dev", UpdateVM(vcpus=2, disk_size=2 * MIB)))

    assert failed_with(refused) == ErrorCode.DISK_TOO_SMALL
    assert (await host.vms.show("dev")).spec.vcpus == 1


async def test_a_port_another_vm_publishes_is_refused(host: Daemon) -> None:
    ports = (PortForward(host_port=18081, guest_port=80),)
    for name, code in (("one", None), ("two", ErrorCode.PORT_TAKEN)):
        request = CreateVM(name=name, ports=ports, start=False)
        assert failed_with(await host.done(await host.vms.create(request))) == code


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (CreateVM(memory=1000 * GIB), ErrorCode.INSUFFICIENT_MEMORY),
        (CreateVM(memory=1), ErrorCode.INVALID_SIZE),
        (CreateVM(root_size=MIB), ErrorCode.DISK_TOO_SMALL),
        (CreateVM(disk_size=64 * 1024), ErrorCode.DISK_TOO_SMALL),
    ],
)
async def test_what_this_host_cannot_do_is_refused_and_leaves_nothing(
    host: Daemon,
    tmp_path: Path,
    processes: Processes,
    request_: CreateVM,
    code: ErrorCode,
) -> None:
    assert failed_with(await host.done(await host.vms.create(request_))) == code
    assert leftovers(tmp_path, processes) == []
    assert await host.vms.list() == []


async def test_a_cancelled_creation_leaves_nothing(tmp_path: Path, processes: Processes) -> None:
    reached = asyncio.Event()

    async def hang(label: str, step: str) -> None:
        if (label, step) == ("start", "launch"):
            reached.set()
            await asyncio.Event().wait()

    async with daemon(tmp_path, processes, hook=hang) as life:
        operation = await life.vms.create(CreateVM(name="dev"))
        await reached.wait()
        ended = await life.operations.cancel(operation.id)

        assert failed_with(ended) == ErrorCode.CANCELLED
        assert leftovers(tmp_path, processes) == []
        assert await life.vms.list() == []


async def test_the_ssh_port_moves_when_a_stranger_listens_on_it(host: Daemon) -> None:
    await host.create("dev", start=False)
    port = (await host.vms.show("dev")).ssh_port
    assert port is not None
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        assert failed_with(await host.done(await host.vms.start("dev"))) is None

    assert (await host.vms.show("dev")).ssh_port != port


def _content(path: str) -> str:
    return Path(path).read_text()
