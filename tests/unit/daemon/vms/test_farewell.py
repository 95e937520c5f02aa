"""The host ends: its guests end first, all of them, and no other begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.daemon.vms.installed import Root
from tests.unit.daemon.vms.world import Daemon, daemon, failed_with, leftovers

from banger.api.errors import ErrorCode, TransientError
from banger.api.models import CreateVM, OperationState, VMState
from banger.channel.requests import PowerOff, Request
from banger.daemon.vms.farewell import HOST_ENDED


@pytest.fixture
async def host(tmp_path: Path, root: Root) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, root.processes, path=root.open) as one:
        yield one


async def test_every_guest_is_asked_and_ends(host: Daemon, root: Root) -> None:
    for name in ("one", "two", "paused"):
        await host.create(name)

    await host.done(await host.vms.pause("paused"))
    ended = await host.done(await host.farewell.begin())

    assert failed_with(ended) is None
    assert root.processes.alive == {}
    assert sum(isinstance(request, PowerOff) for request in host.guests.asked) == 3
    assert {vm.reason for vm in await host.vms.list()} == {HOST_ENDED}
    assert {vm.state for vm in await host.vms.list()} == {VMState.STOPPED}


async def test_what_is_at_rest_stays_as_it_is(host: Daemon) -> None:
    await host.create("dev", start=False)
    before = await host.vms.show("dev")
    await host.done(await host.farewell.begin())
    assert await host.vms.show("dev") == before


async def test_a_guest_that_does_not_answer_is_ended_all_the_same(
    host: Daemon, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_run_dir: str, _request: Request) -> dict[str, Any]:
        raise TransientError(ErrorCode.GUEST_TIMEOUT, "the guest's agent does not answer")

    await host.create("dev")
    monkeypatch.setattr(host.guests, "answer", silent)
    await host.done(await host.farewell.begin())
    assert root.processes.alive == {}


async def test_a_creation_under_way_is_taken_back_and_none_begins(
    tmp_path: Path, root: Root
) -> None:
    reached = asyncio.Event()

    async def hook(label: str, step: str) -> None:
        if (label, step) == ("start", "launch"):
            reached.set()
            await asyncio.Event().wait()

    async with daemon(tmp_path, root.processes, hook=hook, path=root.open) as life:
        begun = await life.vms.create(CreateVM(name="dev"))
        await reached.wait()
        farewell = await life.farewell.begin()
        await life.done(begun)
        assert (await life.done(farewell)).state is OperationState.SUCCEEDED
        assert failed_with(await life.operations.get(begun.id)) == ErrorCode.INTERRUPTED
        assert leftovers(tmp_path, root.processes) == []


async def test_no_vm_starts_meanwhile(host: Daemon) -> None:
    host.site.ending.set()
    assert failed_with(await host.create("dev")) == ErrorCode.HOST_ENDING
    host.site.ending.clear()
    assert failed_with(await host.create("dev")) is None
