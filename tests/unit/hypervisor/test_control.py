"""The guest's control port, with a socket in the place of QEMU's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.hypervisor.qemu import control
from banger.hypervisor.qemu.control import ControlLink

FIRST = "0abc6350-2ba0-4a5b-a884-657f07f12ffd"
SECOND = "7dd8e4b3-d348-4b26-9519-abf3791f4250"


class Guest:
    """The other end of the port."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connected.set()

    async def say(self, text: str) -> None:
        await self.connected.wait()
        assert self.writer is not None
        self.writer.write(text.encode())
        await self.writer.drain()

    async def hear(self) -> bytes:
        await self.connected.wait()
        assert self.reader is not None
        return await self.reader.readline()

    def leave(self) -> None:
        assert self.writer is not None
        self.writer.close()


@pytest.fixture
async def guest(home: Path) -> AsyncIterator[Guest]:
    guest = Guest()
    server = await asyncio.start_unix_server(guest.accept, home / "control.sock")
    yield guest
    server.close()
    if guest.writer is not None:
        guest.leave()


@pytest.fixture
async def link(guest: Guest, home: Path) -> AsyncIterator[ControlLink]:
    link = await ControlLink.connect(home / "control.sock")
    await guest.connected.wait()
    yield link
    link.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PACE_SECONDS", 0.0)


async def test_a_guest_that_is_up_tells_its_boot_id(guest: Guest, link: ControlLink) -> None:
    await guest.say(f"ready {FIRST}\n")

    assert await link.next_boot() == FIRST


async def test_each_boot_is_told_once(guest: Guest, link: ControlLink) -> None:
    await guest.say(f"ready {FIRST}\n")
    await link.next_boot()
    await guest.say(f"ready {FIRST}\nready {SECOND}\n")

    assert await link.next_boot() == SECOND


async def test_the_first_request_asks_who_is_up_and_requests_are_lines(
    guest: Guest, link: ControlLink
) -> None:
    link.send("poweroff")

    assert await guest.hear() == b"ready?\n"
    assert await guest.hear() == b"poweroff\n"


async def test_an_end_is_heard_by_who_waits(guest: Guest, link: ControlLink) -> None:
    waiting = asyncio.create_task(link.next_boot())
    await asyncio.sleep(0)
    guest.leave()

    with pytest.raises(ConnectionResetError):
        await waiting

    assert link.closed
    with pytest.raises(ConnectionResetError):
        link.send("poweroff")


async def test_who_waits_may_give_up_and_wait_again(guest: Guest, link: ControlLink) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.next_boot(), 0)

    await guest.say(f"ready {FIRST}\n")

    assert await link.next_boot() == FIRST


async def test_a_guest_that_floods_the_port_is_still_understood(
    guest: Guest, link: ControlLink
) -> None:
    await guest.say("x" * 100_000 + "\nready nonsense\n" + f"ready {FIRST}\n")

    assert await link.next_boot() == FIRST


async def test_what_a_guest_sends_takes_no_memory(guest: Guest, link: ControlLink) -> None:
    for _ in range(20):
        await guest.say("x" * 10_000)
        await asyncio.sleep(0)

    assert len(link._buffer) <= 256


@given(cuts=st.lists(st.integers(0, 90)), noise=st.binary(max_size=40))
def test_lines_are_understood_however_they_are_cut(cuts: list[int], noise: bytes) -> None:
    data = noise.replace(b"\n", b"") + b"\nready " + FIRST.encode() + b"\n"
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    link = ControlLink()

    for start, end in pairwise(edges):
        link.data_received(data[start:end])

    assert link._heard == FIRST
