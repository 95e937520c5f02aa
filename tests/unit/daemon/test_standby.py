"""A VM made ahead is nobody's until it is somebody's, and then it is a VM like any other."""

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
    killed_at,
    leftovers,
)

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import VM, CreateVM, PortForward, VMState
from banger.api.sizes import GIB, MIB
from banger.channel.requests import Identity
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.admission import admit
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.pausing import freeze


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes, templates_size=GIB, standby=True) as life:
        yield life


async def run(host: Daemon, name: str | None, **wishes: object) -> VM:
    request = CreateVM(name=name, **wishes)  # type: ignore[arg-type]
    operation = await host.done(await host.vms.create(request))
    assert failed_with(operation) is None, operation.error
    return await host.vms.show(operation.target or "")


async def prepared(host: Daemon) -> VMRow:
    """Have a VM stand by as users do: by creating two, of which the second is a clone."""
    await run(host, "first")
    await host.quiet()
    await run(host, "second")
    await host.quiet()
    (row,) = [row for row in await host.site.store.vms() if row.standby]
    return row


async def test_the_next_vm_is_the_one_that_stands_by_under_the_name_it_is_to_have(
    host: Daemon, processes: Processes
) -> None:
    row = await prepared(host)
    vmms = len(processes.alive)

    vm = await run(host, "third")

    assert (vm.id, vm.name, vm.state) == (row.id, "third", VMState.RUNNING)
    assert vm.operation is None
    assert vm.created_at > row.created_at
    assert len(processes.alive) == vmms
    identity = host.guests.asked[-1]
    assert isinstance(identity, Identity)
    assert (identity.hostname, identity.entropy is not None) == ("third", True)
    guest = processes.guests[row.handles.run_dir]
    assert (guest.paused, guest.frozen) == (False, False)
    await host.quiet()
    assert failed_with(await host.done(await host.vms.delete("third"))) is None


async def test_one_without_a_name_keeps_its_own(host: Daemon) -> None:
    row = await prepared(host)

    vm = await run(host, None)

    assert (vm.id, vm.name) == (row.id, row.name)


async def test_a_guest_that_reboots_is_not_told_a_name_it_had_before(host: Daemon) -> None:
    row = await prepared(host)
    await run(host, "third")

    initrd = (Path(row.handles.vm_dir) / "initrd").read_bytes()
    assert b"hostname=''" in initrd
    assert row.name.encode() not in initrd


async def test_nobody_sees_it(host: Daemon) -> None:
    row = await prepared(host)

    assert [vm.name for vm in await host.vms.list()] == ["first", "second"]
    for ref in (row.name, row.id, row.id[:6]):
        with pytest.raises(CallerError) as unknown:
            await host.vms.show(ref)

        assert unknown.value.code is ErrorCode.UNKNOWN_VM

    (template,) = await host.templates.list()
    assert template.clones == 1


async def test_it_stands_still_and_nothing_of_it_runs_before_it_is_somebodys(
    host: Daemon, processes: Processes
) -> None:
    row = await prepared(host)

    guest = processes.guests[row.handles.run_dir]
    assert (row.state, guest.paused, guest.frozen) == (VMState.PAUSED, True, True)


@pytest.mark.parametrize(
    "wishes",
    [
        {"memory": 256 * MIB},
        {"vcpus": 2},
        {"nat": True},
        {"ports": (PortForward(host_port=34567, guest_port=80),)},
        {"cold": True},
    ],
    ids=lambda wishes: next(iter(wishes)),
)
async def test_who_wants_another_kind_gets_another(host: Daemon, wishes: dict[str, object]) -> None:
    row = await prepared(host)

    assert (await run(host, "other", **wishes)).id != row.id


async def test_after_it_is_taken_the_next_one_is_made(host: Daemon) -> None:
    row = await prepared(host)
    await run(host, "third")
    await host.quiet()

    (next_one,) = [row for row in await host.site.store.vms() if row.standby]
    assert next_one.id != row.id
    assert (await run(host, "fourth")).id == next_one.id


async def test_one_whose_vmm_has_ended_is_no_error(host: Daemon, processes: Processes) -> None:
    row = await prepared(host)
    host.hypervisor.end(processes.alive[row.handles.run_dir])

    vm = await run(host, "third")

    assert vm.id != row.id
    assert vm.template is not None


async def test_a_name_that_is_taken_is_the_users_error(host: Daemon) -> None:
    await prepared(host)

    with pytest.raises(CallerError) as refused:
        await host.vms.create(CreateVM(name="first"))

    assert refused.value.code is ErrorCode.NAME_TAKEN
    assert (await run(host, "third")).state is VMState.RUNNING


async def test_memory_that_a_user_needs_is_given_up(
    host: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepared(host)

    async def short_while_it_stands_by(site: object, memory: int) -> None:
        if any(row.standby for row in await host.site.store.vms()):
            raise PermanentError(ErrorCode.INSUFFICIENT_MEMORY, "not with that one there")

        await admit(host.site, memory)

    monkeypatch.setattr("banger.daemon.vms.request.admit", short_while_it_stands_by)
    assert (await run(host, "third")).state is VMState.RUNNING


async def test_it_goes_with_its_template(host: Daemon, processes: Processes) -> None:
    row = await prepared(host)

    assert row.template is not None
    assert failed_with(await host.done(await host.templates.delete(row.template))) is None
    assert row.handles.run_dir not in processes.alive
    assert not any(row.standby for row in await host.site.store.vms())


async def test_a_template_that_is_to_go_takes_with_it_the_one_that_is_being_made(
    host: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def freeze_slowly(machine: Machine, *, seconds: float) -> None:
        begun.set()
        await go_on.wait()
        await freeze(machine, seconds=seconds)

    monkeypatch.setattr("banger.daemon.standby.freeze", freeze_slowly)
    await run(host, "first")
    await host.quiet()
    await run(host, "second")
    await begun.wait()
    (template,) = await host.templates.list()

    deletion = await host.templates.delete(template.key)
    go_on.set()

    assert failed_with(await host.done(deletion)) is None
    await host.quiet()
    assert not any(row.standby for row in await host.site.store.vms())


async def test_a_daemon_that_ends_leaves_none(tmp_path: Path, processes: Processes) -> None:
    async with daemon(tmp_path, processes, templates_size=GIB, standby=True) as host:
        row = await prepared(host)

    assert row.handles.run_dir not in processes.alive
    assert len(processes.alive) == 2


def test_a_daemon_that_was_killed_leaves_it_to_the_next_which_removes_it(
    tmp_path: Path, processes: Processes
) -> None:
    async def work(host: Daemon) -> None:
        await prepared(host)
        await host.done(await host.vms.stop("first"))

    place = ("stop", "launch")
    assert killed_at(place, tmp_path, processes, work, templates_size=GIB, standby=True)
    # The second, and the one that stands by.
    assert len(processes.alive) == 2

    async def look() -> None:
        async with daemon(tmp_path, processes) as host:
            await host.quiet()
            rows = await host.site.store.vms()
            assert not any(row.standby for row in rows)
            owned = {place for row in rows for place in (row.handles.vm_dir, row.handles.run_dir)}
            assert set(leftovers(tmp_path, processes)) <= owned
            assert len(processes.alive) == 1

    asyncio.run(look())


async def test_it_can_be_switched_off(tmp_path: Path, processes: Processes) -> None:
    async with daemon(tmp_path, processes, templates_size=GIB) as host:
        await run(host, "first")
        await host.quiet()
        await run(host, "second")
        await host.quiet()

        assert len(processes.alive) == 2
