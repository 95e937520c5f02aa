"""Forks: what children share with their parent, what they do not, and that all are made or none."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.daemon.snapshots.disks import memory, read, set_memory, write
from tests.unit.daemon.vms.asking import do
from tests.unit.daemon.vms.world import (
    Daemon,
    Processes,
    daemon,
    failed_with,
    killed_at,
    paths_below,
)

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import (
    CreateSnapshot,
    CreateVM,
    ForkVM,
    Operation,
    PortForward,
    UpdateVM,
    VMState,
)
from banger.channel.requests import Identity
from banger.daemon.operations import Progress
from banger.daemon.snapshots.checkpoint import LIVE_STEPS, MEMORY_STEPS
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.creation import Creation, NewVM
from banger.daemon.vms.steps import Hook


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes) as life:
        assert failed_with(await life.create("dev")) is None
        yield life


async def fork(life: Daemon, vm: str = "dev", **request: object) -> Operation:
    return await life.done(await life.snapshots.fork(vm, ForkVM(**request)))  # type: ignore[arg-type]


async def names(life: Daemon) -> list[str]:
    return [vm.name for vm in await life.vms.list()]


async def test_children_go_on_from_one_moment_and_the_parent_too(host: Daemon) -> None:
    await set_memory(host, "dev", "then")
    await write(host, "dev", "work", 0, 1)
    operation = await fork(host, count=3, name="try-{n}")

    assert failed_with(operation) is None
    assert operation.made == ("try-1", "try-2", "try-3")
    for number, name in enumerate(("dev", *operation.made), 10):
        assert await memory(host, name) == "then"
        await write(host, name, "work", 0, number)

    for number, name in enumerate(("dev", *operation.made), 10):
        assert await read(host, name, "work", 1) == [number]


async def test_children_share_no_name_port_address_or_key(host: Daemon) -> None:
    operation = await fork(host, count=8)
    vms = [await host.vms.show(name) for name in ("dev", *operation.made)]
    for what in ("id", "name", "address", "ssh_port", "pid"):
        assert len({getattr(vm, what) for vm in vms}) == 9, what

    identities = [asked for asked in host.guests.asked if isinstance(asked, Identity)]
    named = [identity for identity in identities if identity.hostname is not None]
    for what in ("hostname", "machine_id", "entropy", "ssh_host_key", "networks"):
        assert len({getattr(identity, what) for identity in named}) == 8, what

    keys = {Path((await host.vms.ssh(vm.name)).known_hosts_file).read_text() for vm in vms}
    assert len(keys) == 9


async def test_children_know_their_parent_and_publish_none_of_its_ports(host: Daemon) -> None:
    ports = (PortForward(host_port=18090, guest_port=80),)
    request = CreateVM(name="web", nat=True, ports=ports)
    assert failed_with(await host.done(await host.vms.create(request))) is None
    (child,) = (await fork(host, "web")).made

    vm, parent = await host.vms.show(child), await host.vms.show("web")
    assert (vm.parent, vm.spec.nat, vm.spec.ports) == (parent.id, True, ())
    assert (await host.site.store.find_vm("web")).spec.ports == ports


async def test_nothing_but_the_children_is_left_of_a_fork(host: Daemon, tmp_path: Path) -> None:
    await fork(host, count=2)
    assert await host.site.store.snapshots() == []
    assert list(paths_below(tmp_path).snapshots.glob("*")) == []


async def test_a_child_survives_its_parent_and_its_siblings(host: Daemon) -> None:
    await write(host, "dev", "root", 3, 4)
    first, second = (await fork(host, count=2)).made
    for name in ("dev", first):
        assert await do(host, "delete", name) is None

    await host.collector.collect()
    assert (await read(host, second, "root", 4))[3] == 4
    (grandchild,) = (await fork(host, second)).made
    await do(host, "delete", second)
    await host.collector.collect()
    assert (await read(host, grandchild, "root", 4))[3] == 4
    assert await do(host, "restart", grandchild) is None


async def test_all_that_was_made_goes_with_the_last_of_them(host: Daemon, tmp_path: Path) -> None:
    made = (await fork(host, count=2)).made
    for name in ("dev", *made):
        await do(host, "delete", name)

    await host.collector.collect()
    assert list(paths_below(tmp_path).disks.iterdir()) == []


async def test_a_stopped_vm_is_forked_into_stopped_copies(host: Daemon) -> None:
    await write(host, "dev", "work", 0, 1)
    await do(host, "stop", "dev")
    (child,) = (await fork(host)).made

    assert (await host.vms.show(child)).state is VMState.STOPPED
    await write(host, "dev", "work", 0, 2)
    assert await read(host, child, "work", 1) == [1]
    assert await do(host, "start", child) is None


async def test_a_snapshot_is_forked_as_often_as_one_likes(host: Daemon) -> None:
    await set_memory(host, "dev", "then")
    await write(host, "dev", "work", 0, 1)
    await host.done(await host.snapshots.create("dev", CreateSnapshot(name="first")))
    await set_memory(host, "dev", "now")
    await write(host, "dev", "work", 0, 2)
    for _twice in range(2):
        (child,) = (await fork(host, snapshot="first")).made
        assert await memory(host, child) == "then"
        assert await read(host, child, "work", 1) == [1]

    assert [row.name for row in await host.site.store.snapshots()] == ["first"]
    assert await memory(host, "dev") == "now"


async def test_names_are_made_of_the_parents_and_skip_those_taken(host: Daemon) -> None:
    assert (await fork(host)).made == ("dev-1",)
    assert (await fork(host, count=2)).made == ("dev-2", "dev-3")
    await do(host, "delete", "dev-1")
    assert (await fork(host, count=2)).made == ("dev-1", "dev-4")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ForkVM(name="dev"), ErrorCode.NAME_TAKEN),
        (ForkVM(count=2, name="same"), ErrorCode.INVALID_NAME),
        (ForkVM(name="No_Good-{n}"), ErrorCode.INVALID_NAME),
        (ForkVM(snapshot="none"), ErrorCode.UNKNOWN_SNAPSHOT),
        (ForkVM(count=256, holder_pid=2**22 + 1), ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_done(
    host: Daemon, request_: ForkVM, code: ErrorCode
) -> None:
    host.guests.asked.clear()
    with pytest.raises(CallerError) as refused:
        await host.snapshots.fork("dev", request_)

    assert refused.value.code == code
    assert host.guests.asked == []


async def test_children_that_would_not_fit_into_memory_are_refused(host: Daemon) -> None:
    await do(host, "stop", "dev")
    await host.done(await host.vms.update("dev", UpdateVM(memory=2**33)))
    await do(host, "start", "dev")
    host.guests.asked.clear()
    with pytest.raises(Exception, match="memory"):
        await host.snapshots.fork("dev", ForkVM(count=256))

    assert host.guests.asked == []


async def test_a_child_that_fails_takes_the_others_back(tmp_path: Path) -> None:
    count = 0

    async def hook(label: str, step: str) -> None:
        nonlocal count
        count += (label, step) == ("start", "launch")
        if count == 4:
            raise OSError("no more of these")

    processes = Processes()
    async with daemon(tmp_path, processes, hook=hook) as life:
        await life.create("dev")
        await set_memory(life, "dev", "now")
        assert failed_with(await fork(life, count=8)) is not None

        assert await names(life) == ["dev"]
        assert await memory(life, "dev") == "now"
        assert len(processes.alive) == 1
        assert await life.site.store.snapshots() == []
        assert len(list(paths_below(tmp_path).vms.iterdir())) == 1
        count = 100
        assert failed_with(await fork(life, count=8)) is None


async def test_a_cancelled_fork_takes_its_children_back(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def hook(label: str, step: str) -> None:
        if (label, step) == ("start", "identity"):
            reached.set()
            await asyncio.Event().wait()

    processes = Processes()
    async with daemon(tmp_path, processes, hook=hook) as life:
        await life.create("dev")
        operation = await life.snapshots.fork("dev", ForkVM(count=3))
        await reached.wait()
        assert failed_with(await life.operations.cancel(operation.id)) == ErrorCode.CANCELLED
        assert await names(life) == ["dev"]
        assert len(processes.alive) == 1


async def test_a_parent_is_deleted_once_its_children_have_gone_on(tmp_path: Path) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def hook(label: str, step: str) -> None:
        if (label, step) == ("start", "launch") and made:
            reached.set()
            await go.wait()

    made = False
    async with daemon(tmp_path, Processes(), hook=hook) as life:
        await life.create("dev")
        await write(life, "dev", "work", 0, 1)
        made = True
        forking = await life.snapshots.fork("dev", ForkVM())
        await reached.wait()
        deleting = await life.vms.delete("dev")
        go.set()
        assert failed_with(await life.done(forking)) is None
        assert failed_with(await life.done(deleting)) is None
        await life.collector.collect()
        assert await names(life) == ["dev-1"]
        assert await read(life, "dev-1", "work", 1) == [1]


async def test_the_parent_can_be_used_while_its_children_are_made(tmp_path: Path) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def hook(label: str, step: str) -> None:
        if (label, step) == ("fork", "keep memory"):
            reached.set()
            await go.wait()

    async with daemon(tmp_path, Processes(), hook=hook) as life:
        await life.create("dev")
        forking = await life.snapshots.fork("dev", ForkVM())
        await reached.wait()
        assert await memory(life, "dev")
        assert await do(life, "stop", "dev") is None
        go.set()
        assert failed_with(await life.done(forking)) is None


FORK = [("fork", step.name) for step in (*LIVE_STEPS, *MEMORY_STEPS)]
CHILD = [("start", "launch"), ("start", "identity"), ("create", "work disk")]


@pytest.mark.parametrize("place", [*FORK, *CHILD])
def test_a_daemon_killed_while_it_forks_leaves_the_parent_alone(
    tmp_path: Path, processes: Processes, place: tuple[str, str]
) -> None:
    async def first(life: Daemon) -> None:
        await life.create("dev")
        await set_memory(life, "dev", "now")
        await write(life, "dev", "work", 0, 1)

    async def before(life: Daemon) -> None:
        await fork(life, count=3)

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            assert await names(life) == ["dev"]
            assert await memory(life, "dev") == "now"
            assert await read(life, "dev", "work", 1) == [1]
            assert len(processes.alive) == 1
            assert await life.site.store.snapshots() == []
            assert list(paths_below(tmp_path).snapshots.glob("*")) == []
            assert failed_with(await fork(life, count=2)) is None

    assert not killed_at(("", ""), tmp_path, processes, first)
    assert killed_at(place, tmp_path, processes, before)
    asyncio.run(after())


def test_children_that_ran_when_the_daemon_was_killed_go_with_the_others(
    tmp_path: Path, processes: Processes
) -> None:
    async def before(life: Daemon) -> None:
        await life.create("dev")
        await fork(life, name="older")
        children = life.snapshots._children
        slow = SlowCreation(children.creation, life.site.hook)
        life.snapshots._children = dataclasses.replace(children, creation=slow)
        await fork(life, count=2, name="try-{n}")

    async def after() -> None:
        async with daemon(tmp_path, processes) as life:
            await life.quiet()
            assert await names(life) == ["dev", "older"]

    assert killed_at(("test", "second"), tmp_path, processes, before)
    asyncio.run(after())


class SlowCreation(Creation):
    """Makes one VM, and tells when it runs."""

    def __init__(self, creation: Creation, hook: Hook) -> None:
        self._creation = creation
        self._hook = hook
        self._made = asyncio.Event()

    async def make(self, new: NewVM, progress: Progress) -> VMRow:
        if new.name == "try-2":
            await self._made.wait()
            await self._hook("test", "second")

        row = await self._creation.make(new, progress)
        self._made.set()
        return row
