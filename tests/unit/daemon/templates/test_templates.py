"""When a template is made, what is made of it, and when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from tests.unit.daemon.vms.tiny import TinyImages
from tests.unit.daemon.vms.world import (
    Daemon,
    Processes,
    daemon,
    failed_with,
    paths_below,
)

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import VM, CreateVM, MakeTemplate, Operation, PruneTemplates, VMState
from banger.api.sizes import GIB, MIB
from banger.channel.requests import Freeze, Identity, Sync
from banger.daemon.operations import Progress
from banger.storage.layers import chain

Hook = Callable[[str, str], Awaitable[None]]


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes, templates_size=GIB) as life:
        yield life


async def warmed(host: Daemon) -> str:
    """Have a template made as users do, by a first VM; its key."""
    assert failed_with(await host.create("first")) is None
    await host.quiet()
    (template,) = await host.templates.list()
    return template.key


async def run(host: Daemon, name: str, **wishes: object) -> VM:
    request = CreateVM(name=name, **wishes)  # type: ignore[arg-type]
    operation = await host.done(await host.vms.create(request))
    assert failed_with(operation) is None, operation.error
    return await host.vms.show(name)


async def make(host: Daemon, vcpus: int | None = None) -> Operation:
    return await host.done(await host.templates.make(MakeTemplate(vcpus=vcpus)))


def memory_of(host: Daemon, name: str) -> str:
    """What the guest of a VM has in memory: which boot it comes from."""
    (memory,) = (
        guest.memory
        for run_dir, guest in host.hypervisor.processes.guests.items()
        if name in run_dir
    )
    return memory


def stages(operation: Operation) -> list[str]:
    return [stage.name for stage in operation.stages]


async def test_the_first_vm_boots_and_the_next_goes_on_from_a_guest_nobody_used(
    host: Daemon,
) -> None:
    key = await warmed(host)

    second, third = await run(host, "second"), await run(host, "third")

    first = await host.vms.show("first")
    assert memory_of(host, second.id) == memory_of(host, third.id) != memory_of(host, first.id)
    assert [vm.template for vm in (first, second, third)] == [None, key, key]
    assert second.state is VMState.RUNNING
    assert not any(guest.frozen for guest in host.hypervisor.processes.guests.values())
    identities = [asked for asked in host.guests.asked if isinstance(asked, Identity)]
    assert [identity.hostname for identity in identities[-2:]] == ["second", "third"]


async def test_a_template_is_silent_and_synced_before_it_is_saved(host: Daemon) -> None:
    await warmed(host)

    (freeze,) = (request for request in host.guests.asked if isinstance(request, Freeze))
    assert freeze.processes
    assert freeze.timeout >= 3600
    assert any(isinstance(request, Sync) for request in host.guests.asked)


async def test_nothing_but_what_clones_need_is_kept(
    host: Daemon, processes: Processes, tmp_path: Path
) -> None:
    key = await warmed(host)

    paths = paths_below(tmp_path)
    below = paths.templates / key
    kept = {str(path.relative_to(below)) for path in below.rglob("*")}
    assert kept == {"memory", "memory/memory", "memory/state", "root.qcow2", "work.qcow2"}
    assert not list(paths.template_run.glob("*"))
    assert len(processes.alive) == 1
    assert [vm.name for vm in await host.vms.list()] == ["first"]


async def test_clones_write_to_layers_of_their_own(host: Daemon, tmp_path: Path) -> None:
    await warmed(host)
    await run(host, "second")
    await run(host, "third")

    rows = {row.name: row for row in await host.site.store.vms()}
    (template,) = await host.site.store.templates()
    tops = [Path(rows[name].handles.disks.work.path) for name in ("second", "third")]
    assert tops[0] != tops[1]
    assert {chain(top)[1] for top in tops} == {Path(template.disks.work.path)}


async def test_cold_boots_and_leaves_no_template(host: Daemon) -> None:
    vm = await run(host, "dev", cold=True)
    await host.quiet()

    assert vm.template is None
    assert await host.templates.list() == []
    await warmed(host)
    assert (await run(host, "again", cold=True)).template is None


async def test_another_shape_boots_and_gets_a_template_of_its_own(host: Daemon) -> None:
    await warmed(host)

    vm = await run(host, "large", memory=256 * MIB)
    await host.quiet()

    assert vm.template is None
    assert {t.memory for t in await host.templates.list()} == {128 * MIB, 256 * MIB}
    assert (await run(host, "larger", memory=256 * MIB)).template is not None


async def test_first_uses_at_the_same_time_make_one_template(
    host: Daemon, processes: Processes
) -> None:
    operations = await asyncio.gather(*(host.create(f"vm-{n}") for n in range(4)))
    asked = await asyncio.gather(make(host), make(host))
    await host.quiet()

    assert [failed_with(operation) for operation in (*operations, *asked)] == [None] * 6
    assert len(await host.templates.list()) == 1
    assert sum(isinstance(request, Freeze) for request in host.guests.asked) == 1
    assert len(processes.alive) == 4


async def test_no_user_waits_for_a_template_that_is_being_made(
    tmp_path: Path, processes: Processes
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(label: str, step: str) -> None:
        if (label, step) == ("template", "save"):
            begun.set()
            await go_on.wait()

    async with daemon(tmp_path, processes, hook=hold, templates_size=GIB) as host:
        await run(host, "first")
        await asyncio.wait_for(begun.wait(), 60)

        assert (await run(host, "second")).state is VMState.RUNNING
        assert failed_with(await host.done(await host.vms.delete("first"))) is None

        go_on.set()
        await host.quiet()
        assert len(await host.templates.list()) == 1


async def test_a_template_is_not_begun_while_an_operation_is_under_way(
    host: Daemon, tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def body(progress: Progress) -> None:
        await go_on.wait()

    operation = await host.operations.start("test", body, target=None, target_name=None)
    await run(host, "first")
    for _turn in range(20):
        await asyncio.sleep(0)

    assert await host.site.store.templates() == []
    go_on.set()
    await host.done(operation)
    await host.quiet()
    assert len(await host.templates.list()) == 1


async def test_a_template_that_does_not_load_is_dropped_and_the_vm_boots_all_the_same(
    host: Daemon,
) -> None:
    key = await warmed(host)
    launch = host.hypervisor.launch

    async def refuse(plan: object) -> object:
        if plan.restore is not None:  # type: ignore[attr-defined]
            raise PermanentError(ErrorCode.RESTORE_FAILED, "state of another machine")

        return await launch(plan)  # type: ignore[arg-type]

    host.hypervisor.launch = refuse  # type: ignore[method-assign, assignment]
    operation = await host.done(await host.vms.create(CreateVM(name="second")))

    assert failed_with(operation) is None
    (told,) = (stage for stage in operation.stages if stage.name == "template")
    assert "booting instead: state of another machine" in (told.detail or "")
    vm = await host.vms.show("second")
    assert (vm.state, vm.template, operation.target) == (VMState.RUNNING, None, vm.id)
    assert [known.name for known in await host.vms.list()] == ["first", "second"]

    host.hypervisor.launch = launch  # type: ignore[method-assign]
    await host.quiet()
    (anew,) = await host.templates.list()
    assert anew.key == key
    assert (await run(host, "third")).template == key


async def test_errors_that_are_not_the_templates_stay_the_users(host: Daemon) -> None:
    key = await warmed(host)

    operation = await host.done(await host.vms.create(CreateVM(name="big", memory=2**49)))

    assert failed_with(operation) is ErrorCode.INSUFFICIENT_MEMORY
    assert [template.key for template in await host.templates.list()] == [key]


@pytest.mark.parametrize("harm", ["grown", "touched", "replaced", "gone"])
async def test_a_template_whose_memory_somebody_touched_is_not_used(
    host: Daemon, tmp_path: Path, harm: str
) -> None:
    key = await warmed(host)
    memory = paths_below(tmp_path).templates / key / "memory" / "memory"
    text = memory.read_text()
    if harm == "grown":
        memory.write_text(text + "!")
    elif harm == "touched":
        memory.write_text("x" * len(text))
    elif harm == "replaced":
        memory.rename(memory.with_name("old"))
        memory.write_text(text)
    else:
        memory.unlink()

    vm = await run(host, "second")

    assert vm.template is None
    await host.quiet()
    assert (await run(host, "third")).template == key


async def test_a_deleted_template_leaves_its_vms_what_they_need(
    host: Daemon, tmp_path: Path
) -> None:
    key = await warmed(host)
    await run(host, "second")

    assert failed_with(await host.done(await host.templates.delete(key))) is None

    assert await host.templates.list() == []
    row = await host.site.store.find_vm("second")
    assert all(layer.exists() for layer in chain(Path(row.handles.disks.root.path)))
    assert not (paths_below(tmp_path).templates / key).exists()
    await host.done(await host.vms.delete("second"))
    await host.done(await host.vms.delete("first"))
    with pytest.raises(CallerError) as refused:
        await host.templates.delete(key)

    assert refused.value.code is ErrorCode.UNKNOWN_TEMPLATE


async def test_a_template_is_not_removed_under_a_vm_that_is_being_made_of_it(
    tmp_path: Path, processes: Processes
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    held = False

    async def hold(label: str, step: str) -> None:
        if held and (label, step) == ("start", "launch"):
            begun.set()
            await go_on.wait()

    async with daemon(tmp_path, processes, hook=hold, templates_size=GIB) as host:
        key = await warmed(host)
        held = True
        creation = asyncio.create_task(run(host, "second"))
        await asyncio.wait_for(begun.wait(), 60)
        deletion = await host.templates.delete(key)
        for _turn in range(20):
            await asyncio.sleep(0)

        assert (paths_below(tmp_path).templates / key / "root.qcow2").exists()
        go_on.set()
        assert (await creation).template == key
        assert failed_with(await host.done(deletion)) is None
        assert not (paths_below(tmp_path).templates / key).exists()


async def test_making_one_that_exists_does_nothing(host: Daemon) -> None:
    made = await make(host)
    again = await make(host)

    (template,) = await host.templates.list()
    assert (made.target, again.target) == (template.key, template.key)
    assert "launch" in stages(made)
    assert "launch" not in stages(again)
    assert template.allocated_bytes > 0
    assert template.clones == 0


async def test_how_many_vms_are_of_it_is_told(host: Daemon) -> None:
    await warmed(host)
    await run(host, "second")
    await run(host, "third")

    (template,) = await host.templates.list()
    assert template.clones == 2
    assert template.used_at >= template.created_at


async def test_the_ones_used_least_recently_make_room(tmp_path: Path, processes: Processes) -> None:
    async with daemon(tmp_path, processes, templates_size=GIB) as host:
        for vcpus in (1, 2, 3):
            await make(host, vcpus=vcpus)

        await run(host, "dev", vcpus=1)
        await host.quiet()
        sizes = [template.allocated_bytes for template in await host.templates.list()]

    async with daemon(tmp_path, processes, templates_size=sum(sizes) - 1) as host:
        await host.templates.tidy()
        kept = {template.vcpus for template in await host.templates.list()}

    assert kept == {1, 3}


async def test_one_that_is_larger_than_all_may_be_is_refused_with_the_setting(
    tmp_path: Path, processes: Processes
) -> None:
    async with daemon(tmp_path, processes, templates_size=4096) as host:
        operation = await make(host)

        assert failed_with(operation) is ErrorCode.INSUFFICIENT_DISK
        assert operation.error is not None
        assert "limits.templates_size" in (operation.error.hint or "")
        assert await host.site.store.templates() == []


async def test_without_room_for_any_every_vm_boots(tmp_path: Path, processes: Processes) -> None:
    async with daemon(tmp_path, processes, templates_size=0) as host:
        assert (await run(host, "first")).template is None
        await host.quiet()
        assert (await run(host, "second")).template is None
        with pytest.raises(PermanentError):
            await host.templates.make(MakeTemplate())


async def test_pruning_removes_what_no_new_vm_would_start_from(host: Daemon) -> None:
    await warmed(host)
    await host.done(await host.templates.prune(PruneTemplates()))
    assert len(await host.templates.list()) == 1

    host.hypervisor.version = "2"
    await run(host, "second")
    await host.quiet()
    old, new = sorted(await host.templates.list(), key=lambda template: template.created_at)
    await host.done(await host.templates.prune(PruneTemplates()))

    assert [template.key for template in await host.templates.list()] == [new.key]
    assert old.key != new.key
    await host.done(await host.templates.prune(PruneTemplates(all=True)))
    assert await host.templates.list() == []


async def test_a_rebuilt_image_takes_its_templates_along_and_gets_a_new_one(
    host: Daemon,
) -> None:
    key = await warmed(host)
    images = host.site.images
    assert isinstance(images, TinyImages)
    images.image = msgspec.structs.replace(images.image, id="i2")

    await host.templates.images_changed(images.image)
    await host.quiet()

    (template,) = await host.templates.list()
    assert (template.image_id, template.key == key) == ("i2", False)
    assert (await run(host, "second")).template == template.key


async def test_a_guest_that_never_comes_up_makes_no_template_and_is_not_tried_for_ever(
    host: Daemon, processes: Processes
) -> None:
    for number in range(5):
        await run(host, f"vm-{number}")
        host.guests.boots = False
        await host.quiet()
        host.guests.boots = True

    assert await host.site.store.templates() == []
    assert len(processes.alive) == 5
    launches = next(processes.pids) - 10_000_000
    assert launches == 5 + 3
