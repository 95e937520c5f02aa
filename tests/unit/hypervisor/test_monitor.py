"""A guest that QEMU stopped for a full disk goes on; a socket stands in for QEMU's monitor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hypervisor.waiting import until

from banger.hypervisor.qemu import monitor
from banger.hypervisor.qemu.monitor import Resumer, serves

STOPPED = {"event": "BLOCK_IO_ERROR", "data": {"action": "stop", "reason": "No space left"}}


class Vmm:
    """QEMU's end of the monitor: what it is told, and what it says."""

    def __init__(self) -> None:
        self.commands: asyncio.Queue[str] = asyncio.Queue()
        self.writer: asyncio.StreamWriter | None = None
        self.server: asyncio.Server | None = None
        self.first_words = b""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(self.first_words)
        async for line in reader:
            await self.commands.put(json.loads(line)["execute"])

        writer.close()

    def say(self, message: object) -> None:
        assert self.writer is not None
        self.writer.write(json.dumps(message).encode() + b"\r\n")

    def end(self) -> None:
        assert self.writer is not None
        self.writer.close()


@pytest.fixture
async def vmm(home: Path) -> AsyncIterator[Vmm]:
    vmm = Vmm()
    vmm.server = await asyncio.start_unix_server(vmm.accept, home / "qmp.sock")
    yield vmm
    vmm.server.close()


@pytest.fixture
async def resumer(home: Path, vmm: Vmm) -> AsyncIterator[Resumer]:
    loop = asyncio.get_running_loop()
    _, resumer = await loop.create_unix_connection(lambda: Resumer("dev"), str(home / "qmp.sock"))
    assert await vmm.commands.get() == "qmp_capabilities"
    assert await vmm.commands.get() == "query-status"
    yield resumer
    resumer.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_RETRY_SECONDS", 0.0)


@pytest.mark.usefixtures("resumer")
async def test_a_guest_stopped_by_a_full_disk_is_let_go_on(vmm: Vmm) -> None:
    vmm.say(STOPPED)

    assert await vmm.commands.get() == "cont"


@pytest.mark.usefixtures("resumer")
async def test_a_disk_that_stays_full_is_tried_again(vmm: Vmm) -> None:
    for _ in range(3):
        vmm.say(STOPPED)
        assert await vmm.commands.get() == "cont"


@pytest.mark.usefixtures("resumer")
async def test_a_guest_stopped_before_the_daemon_came_is_let_go_on(vmm: Vmm) -> None:
    vmm.say({"return": {"running": False, "singlestep": False, "status": "io-error"}})

    assert await vmm.commands.get() == "cont"


@pytest.mark.usefixtures("resumer")
async def test_many_failed_writes_are_one_stop(vmm: Vmm) -> None:
    for _ in range(5):
        vmm.say(STOPPED)

    vmm.say({"return": {}})
    assert await vmm.commands.get() == "cont"
    for _ in range(20):
        await asyncio.sleep(0)

    assert vmm.commands.empty()


@pytest.mark.parametrize(
    "message",
    [
        {"return": {"running": True, "status": "running"}},
        {"event": "BLOCK_IO_ERROR", "data": {"action": "report"}},
        {"event": "STOP"},
        {"return": []},
        "not an object",
    ],
)
@pytest.mark.usefixtures("resumer")
async def test_nothing_else_makes_a_guest_go_on(vmm: Vmm, message: object) -> None:
    vmm.say(message)
    vmm.say(STOPPED)

    assert await vmm.commands.get() == "cont"
    assert vmm.commands.empty()


async def test_a_vmm_that_talks_without_end_is_hung_up_on(vmm: Vmm, resumer: Resumer) -> None:
    assert vmm.writer is not None
    vmm.writer.write(b"x" * 200_000)

    await until(lambda: resumer._transport is None)


@given(st.lists(st.binary()))
def test_no_message_raises(pieces: list[bytes]) -> None:
    resumer = Resumer("dev")

    for piece in pieces:
        resumer.data_received(piece)


async def test_a_vmm_serves_when_it_answers_not_when_it_greets(home: Path, vmm: Vmm) -> None:
    vmm.first_words = b'{"QMP": {}}\r\n'
    waiting = asyncio.create_task(serves(home / "qmp.sock"))
    assert await vmm.commands.get() == "qmp_capabilities"
    assert not waiting.done()

    vmm.say({"return": {}})

    assert await waiting


async def test_a_vmm_that_ends_first_never_serves(home: Path, vmm: Vmm) -> None:
    waiting = asyncio.create_task(serves(home / "qmp.sock"))
    await vmm.commands.get()
    vmm.end()

    assert not await waiting


async def test_a_socket_nobody_listens_on_never_serves(home: Path) -> None:
    assert not await serves(home / "none.sock")
