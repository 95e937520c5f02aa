"""Whatever interrupts the making of a template, nothing of it is left and users notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from tests.unit.daemon.vms.world import (
    DEFAULTS,
    Daemon,
    Processes,
    daemon,
    failed_with,
    paths_below,
)

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import CreateVM, MakeTemplate
from banger.api.sizes import GIB
from banger.daemon.store.rows import TemplateRow
from banger.daemon.templates.key import Keys
from banger.daemon.templates.maker import new_row
from banger.daemon.templates.making import Seed, make_steps
from banger.daemon.vms.plan import resolve_spec

Hook = Callable[[str, str], Awaitable[None]]
# fmt: off
STEPS = [
    "directory", "host key", "root disk", "work disk", "run directory", "initrd",
    "launch", "boot", "settle", "save", "convert", "disks", "sync",
]
# fmt: on


def remains(root: Path, processes: Processes) -> list[str]:
    """All that templates, and the VMs they are made of, take on this host."""
    paths = paths_below(root)
    places = (paths.templates, paths.template_run, paths.disks)
    return [*processes.alive, *(str(entry) for place in places for entry in place.glob("*"))]


def failing_at(name: str, code: ErrorCode = ErrorCode.INTERNAL) -> Hook:
    async def hook(label: str, step: str) -> None:
        if (label, step) == ("template", name):
            raise PermanentError(code, f"injected at {name}")

    return hook


async def half_made(host: Daemon, steps: int) -> TemplateRow:
    """A template as a daemon leaves it that is killed after so many steps of making it."""
    image = (await host.site.images.list())[0]
    spec = resolve_spec(CreateVM(), DEFAULTS, image)
    key = await Keys(host.site).of(spec, image.id, image.kernel)
    row = new_row(host.site, key, spec, image)
    await host.site.store.save_template(row)
    seed = Seed(host.site, row)
    for step in make_steps(host.site)[:steps]:
        await step.do(seed)

    return row


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_leaves_nothing(tmp_path: Path, step: str) -> None:
    processes = Processes()
    async with daemon(tmp_path, processes, hook=failing_at(step), templates_size=GIB) as host:
        operation = await host.done(await host.templates.make(MakeTemplate()))

        assert failed_with(operation) is ErrorCode.INTERNAL
        assert await host.site.store.templates() == []
        assert remains(tmp_path, processes) == []


@pytest.mark.parametrize("steps", range(len(STEPS) + 1), ids=["nothing", *STEPS])
async def test_a_daemon_that_is_killed_leaves_nothing_to_the_next(
    tmp_path: Path, steps: int
) -> None:
    processes = Processes()
    async with daemon(tmp_path, processes, templates_size=GIB) as killed:
        await half_made(killed, steps)

    async with daemon(tmp_path, processes, templates_size=GIB) as host:
        assert await host.templates.list() == []
        await host.quiet()
        assert await host.site.store.templates() == []
        assert remains(tmp_path, processes) == []
        assert failed_with(await host.done(await host.templates.make(MakeTemplate()))) is None


@pytest.mark.parametrize("step", ["boot", "settle", "save"])
async def test_a_vmm_that_dies_leaves_nothing(tmp_path: Path, step: str) -> None:
    processes = Processes()

    async def kill(label: str, name: str) -> None:
        if (label, name) == ("template", step):
            processes.alive.clear()

    async with daemon(tmp_path, processes, hook=kill, templates_size=GIB) as host:
        operation = await host.done(await host.templates.make(MakeTemplate()))

        assert failed_with(operation) is not None
        assert remains(tmp_path, processes) == []


@pytest.mark.parametrize("fault", ["launch", "save", "convert"])
async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    processes = Processes()
    hook = failing_at(fault, ErrorCode.INSUFFICIENT_DISK)
    async with daemon(tmp_path, processes, hook=hook, templates_size=GIB) as host:
        operation = await host.done(await host.templates.make(MakeTemplate()))

        assert failed_with(operation) is ErrorCode.INSUFFICIENT_DISK
        assert remains(tmp_path, processes) == []


async def test_a_cancelled_making_leaves_nothing_and_those_who_wait_get_theirs(
    tmp_path: Path,
) -> None:
    processes = Processes()
    begun, held = asyncio.Event(), True

    async def hold(label: str, step: str) -> None:
        if held and (label, step) == ("template", "save"):
            begun.set()
            await asyncio.Event().wait()

    async with daemon(tmp_path, processes, hook=hold, templates_size=GIB) as host:
        first = await host.templates.make(MakeTemplate())
        await asyncio.wait_for(begun.wait(), 60)
        second = await host.templates.make(MakeTemplate())
        held = False
        await host.operations.cancel(first.id)

        assert failed_with(await host.done(second)) is None
        assert len(await host.templates.list()) == 1
        assert processes.alive == {}


async def test_a_daemon_that_stops_takes_back_what_it_was_making(tmp_path: Path) -> None:
    processes = Processes()
    begun = asyncio.Event()

    async def hold(label: str, step: str) -> None:
        if (label, step) == ("template", "save"):
            begun.set()
            await asyncio.Event().wait()

    async with daemon(tmp_path, processes, hook=hold, templates_size=GIB) as host:
        await host.create("dev")
        await asyncio.wait_for(begun.wait(), 60)
        assert len(processes.alive) == 2

    assert len(processes.alive) == 1


async def test_a_deletion_that_was_cut_short_is_finished_by_the_next_daemon(
    tmp_path: Path,
) -> None:
    processes = Processes()
    async with daemon(tmp_path, processes, templates_size=GIB) as killed:
        await killed.done(await killed.templates.make(MakeTemplate()))
        (row,) = await killed.site.store.templates()
        await killed.site.store.save_template(msgspec.structs.replace(row, ready=False))

    async with daemon(tmp_path, processes, templates_size=GIB) as host:
        await host.quiet()
        assert await host.site.store.templates() == []
        assert remains(tmp_path, processes) == []
