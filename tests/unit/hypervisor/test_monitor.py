"""A guest that QEMU stopped for a full disk goes on; a socket stands in for QEMU's monitor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.hypervisor.scripted import ScriptedVmm

from banger.hypervisor.qemu import monitor
from banger.hypervisor.qemu.monitor import Monitor, Resumer

FAILED = {"event": "BLOCK_IO_ERROR", "data": {"action": "stop", "reason": "No space left"}}
STOPPED = {"status": "io-error", "running": False}
RUNNING = {"status": "running", "running": True}


@pytest.fixture
async def vmm(home: Path) -> AsyncIterator[ScriptedVmm]:
    async with ScriptedVmm.serving(home / "qmp.sock") as vmm:
        vmm.answers["query-status"] = RUNNING
        yield vmm


@pytest.fixture
async def shared(home: Path, vmm: ScriptedVmm) -> AsyncIterator[Monitor]:
    shared = Monitor(home)
    yield shared
    shared.close()


@pytest.fixture
async def resumer(shared: Monitor) -> AsyncIterator[Resumer]:
    resumer = Resumer(shared)
    await resumer._begin
    yield resumer
    resumer.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_RETRY_SECONDS", 0.0)


@pytest.mark.usefixtures("resumer")
async def test_a_guest_stopped_by_a_full_disk_is_let_go_on(vmm: ScriptedVmm) -> None:
    vmm.answers["query-status"] = STOPPED
    vmm.say(FAILED)

    await vmm.asked("cont")


@pytest.mark.usefixtures("resumer")
async def test_a_disk_that_stays_full_is_tried_again(vmm: ScriptedVmm) -> None:
    vmm.answers["query-status"] = STOPPED
    for _ in range(3):
        vmm.say(FAILED)
        vmm.answer(await vmm.asked("cont"), {})


async def test_a_guest_stopped_before_the_daemon_came_is_let_go_on(
    vmm: ScriptedVmm, shared: Monitor
) -> None:
    vmm.answers["query-status"] = STOPPED
    resumer = Resumer(shared)

    await vmm.asked("cont")

    resumer.close()


@pytest.mark.usefixtures("resumer")
async def test_many_failed_writes_are_one_stop(vmm: ScriptedVmm) -> None:
    vmm.answers["query-status"] = STOPPED
    for _ in range(5):
        vmm.say(FAILED)

    await vmm.asked("cont")
    for _ in range(20):
        await asyncio.sleep(0)

    assert vmm.commands.empty()


@pytest.mark.usefixtures("resumer")
async def test_a_guest_that_was_paused_meanwhile_stays_paused(
    vmm: ScriptedVmm, shared: Monitor
) -> None:
    del vmm.answers["query-status"]
    vmm.say(FAILED)
    vmm.answer(await vmm.asked("query-status"), {"status": "paused"})

    async with shared.exclusive:
        assert vmm.commands.empty()


@pytest.mark.usefixtures("resumer")
async def test_nobody_is_let_go_on_while_somebody_has_the_guest_stopped(
    vmm: ScriptedVmm, shared: Monitor
) -> None:
    vmm.answers["query-status"] = STOPPED
    async with shared.exclusive:
        vmm.say(FAILED)
        # What it does when it hears that is done by the time of an answer.
        await (await shared.qmp()).run("query-status")
        await asyncio.sleep(0)
        assert vmm.commands.empty()

    await vmm.asked("cont")


@pytest.mark.parametrize(
    "message",
    [
        {"event": "BLOCK_IO_ERROR", "data": {"action": "report"}},
        {"event": "BLOCK_IO_ERROR", "data": {}},
        {"event": "STOP", "data": {}},
    ],
)
@pytest.mark.usefixtures("resumer")
async def test_nothing_else_makes_a_guest_go_on(
    vmm: ScriptedVmm, shared: Monitor, message: object
) -> None:
    vmm.answers["query-status"] = STOPPED
    vmm.say(message)
    await (await shared.qmp()).run("query-status")
    await asyncio.sleep(0)

    assert vmm.commands.empty()


async def test_all_share_one_connection(shared: Monitor) -> None:
    first, second = await asyncio.gather(shared.qmp(), shared.qmp())

    assert first is second


async def test_a_connection_that_ended_is_made_again(vmm: ScriptedVmm, shared: Monitor) -> None:
    first = await shared.qmp()
    first.close()
    second = await shared.qmp()

    assert second is not first
    assert not second.closed


async def test_a_vmm_that_is_gone_has_no_monitor(home: Path) -> None:
    with pytest.raises(ConnectionError):
        await Monitor(home / "elsewhere").qmp()
