"""The client of QEMU's machine protocol; a socket stands in for QEMU's monitor."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hypervisor.scripted import ScriptedVmm

from banger.hypervisor.qemu import qmp as qmp_module
from banger.hypervisor.qemu.qmp import MESSAGE_MAX, Event, Qmp, Refused


class Status(msgspec.Struct):
    status: str


@pytest.fixture
async def vmm(home: Path) -> AsyncIterator[ScriptedVmm]:
    async with ScriptedVmm.serving(home / "qmp.sock") as vmm:
        yield vmm


@pytest.fixture
async def qmp(home: Path, vmm: ScriptedVmm) -> AsyncIterator[Qmp]:
    qmp = await Qmp.connect(home / "qmp.sock")
    await qmp.ready
    yield qmp
    qmp.close()


async def test_answers_find_their_commands_in_any_order(qmp: Qmp, vmm: ScriptedVmm) -> None:
    first, second = qmp.send("query-status"), qmp.send("query-name", {"key": "value"})
    told = await vmm.asked("query-status"), await vmm.asked("query-name")

    vmm.answer(told[1], {"status": "second"})
    vmm.answer(told[0], {"status": "first"})

    assert told[1]["arguments"] == {"key": "value"}
    assert msgspec.json.decode(await first) == {"status": "first"}
    assert msgspec.json.decode(await second) == {"status": "second"}


async def test_a_refusal_has_qemus_class_and_reason(qmp: Qmp, vmm: ScriptedVmm) -> None:
    future = qmp.send("stop")
    command = await vmm.asked("stop")
    vmm.say({"error": {"class": "DeviceNotFound", "desc": "no such"}, "id": command["id"]})

    with pytest.raises(Refused, match="no such") as raised:
        await future

    assert raised.value.kind == "DeviceNotFound"


async def test_of_an_answer_that_is_wanted_is_taken(qmp: Qmp, vmm: ScriptedVmm) -> None:
    vmm.answers["query-status"] = {"status": "running", "running": True}

    assert (await qmp.ask("query-status", Status)).status == "running"


async def test_an_answer_of_another_shape_is_no_answer(qmp: Qmp, vmm: ScriptedVmm) -> None:
    vmm.answers["query-status"] = {"status": 7}

    with pytest.raises(ConnectionError, match="does not speak QMP"):
        await qmp.ask("query-status", Status)


async def test_an_event_reaches_who_expects_it_and_who_hears_all(
    qmp: Qmp, vmm: ScriptedVmm
) -> None:
    heard: list[str] = []
    qmp.on_event = lambda event: heard.append(event.name)
    expected = qmp.expect(lambda event: event.name == "STOP")

    vmm.say({"event": "RESUME", "data": {}})
    vmm.say({"event": "STOP", "data": {"status": "x"}})

    assert (await expected).read(Status).status == "x"
    assert heard == ["RESUME", "STOP"]


async def test_an_event_before_it_was_expected_does_not_count(qmp: Qmp, vmm: ScriptedVmm) -> None:
    vmm.answers["query-status"] = {"status": "running"}
    vmm.say({"event": "STOP", "data": {}})
    await qmp.run("query-status")
    expected = qmp.expect(lambda event: event.name == "STOP")
    await qmp.run("query-status")

    assert not expected.done()


async def test_an_open_file_goes_with_its_command(home: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(home / "fd.sock"))
    listener.listen()
    qmp = await Qmp.connect(home / "fd.sock")
    peer, _ = listener.accept()
    inside, outside = os.pipe()

    qmp.send("getfd", {"fdname": "x"}, descriptor=outside)
    data, (descriptor,), *_ = socket.recv_fds(peer, 4096, 4)
    while b"getfd" not in data:
        more, descriptors, *_ = socket.recv_fds(peer, 4096, 4)
        data += more
        descriptor = (descriptors or [descriptor])[0]

    os.write(descriptor, b"through")
    assert os.read(inside, 7) == b"through"
    qmp.close()
    for number in (inside, outside, descriptor):
        os.close(number)

    peer.close()
    listener.close()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"garbage\r\n",
        b"[]\r\n",
        b'{"event": 1}\r\n',
        b'{"id": "x", "return": {}}\r\n',
        b"\xff\xfe\r\n",
        b"x" * (MESSAGE_MAX + 100_000),
    ],
)
async def test_a_vmm_that_talks_nonsense_or_without_end_is_hung_up_on(
    qmp: Qmp, vmm: ScriptedVmm, nonsense: bytes
) -> None:
    waiting = qmp.send("query-status")
    vmm.say_raw(nonsense)

    with pytest.raises(ConnectionError):
        await waiting

    assert qmp.closed


@pytest.mark.parametrize("data", [{"status": 5}, [], "text"])
async def test_an_event_of_another_shape_ends_the_connection(
    qmp: Qmp, vmm: ScriptedVmm, data: object
) -> None:
    expected = qmp.expect(lambda event: event.read(Status).status == "completed")
    vmm.say({"event": "MIGRATION", "data": data})

    with pytest.raises(ConnectionError):
        await expected


async def test_the_end_is_told_to_all_who_wait(qmp: Qmp, vmm: ScriptedVmm) -> None:
    answer, event = qmp.send("stop"), qmp.expect(lambda _: True)
    await vmm.asked("stop")
    vmm.say_raw(b'{"return": {}, "i')
    vmm.hang_up()

    for waiting in (answer, event):
        with pytest.raises(ConnectionError):
            await waiting


async def test_after_the_end_nothing_waits(qmp: Qmp) -> None:
    qmp.close()

    for waiting in (qmp.send("stop"), qmp.expect(lambda _: True)):
        with pytest.raises(ConnectionError):
            await waiting


async def test_a_vmm_that_does_not_answer_is_not_waited_for_for_ever(
    qmp: Qmp, vmm: ScriptedVmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_module, "ANSWER_SECONDS", 0.01)

    with pytest.raises(TimeoutError):
        await qmp.run("stop")

    vmm.answer(await vmm.asked("stop"), {})
    vmm.answers["query-status"] = {"status": "paused"}
    assert (await qmp.ask("query-status", Status)).status == "paused"


async def test_nobody_listens(home: Path) -> None:
    with pytest.raises(ConnectionError):
        await Qmp.connect(home / "none.sock")


@given(st.lists(st.binary()))
def test_no_message_raises(pieces: list[bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as unconnected:
        qmp = Qmp(unconnected)
        for piece in pieces:
            qmp.data_received(piece)


@given(st.binary())
def test_reading_an_event_raises_nothing_else(data: bytes) -> None:
    try:
        Event("X", msgspec.Raw(data)).read(Status)
    except ConnectionError:
        return
