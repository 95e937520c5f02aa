"""The same requests on an event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import psutil
import pytest
from tests.unit.channel.waiting import eventually

from banger.api.errors import ErrorCode, OutcomeUnknown, PermanentError, TransientError
from banger.channel.aio import MAX_OUTPUT, GuestAgent
from banger.channel.frames import Decoder, Kind, encode
from banger.channel.requests import Exec, GuestHealth, Health
from banger.channel.serial import PORTS, SerialChannel


@pytest.fixture
def agent(channel: SerialChannel) -> GuestAgent:
    return GuestAgent(channel)


async def test_a_program_runs_and_what_it_wrote_comes_back(agent: GuestAgent) -> None:
    data = os.urandom(MAX_OUTPUT - 1)
    ran = await agent.run(Exec(argv=("sh", "-c", "cat; echo err >&2; exit 3")), stdin=data)

    assert (ran.exited.code, ran.stdout, ran.stderr) == (3, data, b"err\n")


async def test_output_is_not_kept_without_bound(agent: GuestAgent) -> None:
    with pytest.raises(PermanentError) as caught:
        await agent.run(Exec(argv=("yes",)))

    assert caught.value.code is ErrorCode.AGENT_FAILED


async def test_calls_overlap_and_wait_for_their_turn(agent: GuestAgent) -> None:
    runs = [agent.run(Exec(argv=("echo", str(number)))) for number in range(12)]

    assert [ran.stdout for ran in await asyncio.gather(*runs)] == [
        b"%d\n" % number for number in range(12)
    ]


async def test_a_timeout_ends_the_program(agent: GuestAgent, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec sleep 1000"
    with pytest.raises(TransientError) as caught:
        await agent.run(Exec(argv=("sh", "-c", script)), timeout=3.0)

    assert caught.value.code is ErrorCode.GUEST_TIMEOUT
    pid = int((tmp_path / "pid").read_text())
    await asyncio.to_thread(eventually, lambda: not psutil.pid_exists(pid))


async def test_cancelling_a_call_ends_the_program(agent: GuestAgent, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec sleep 1000"
    call = asyncio.create_task(agent.run(Exec(argv=("sh", "-c", script))))
    noted = tmp_path / "pid"
    await asyncio.to_thread(eventually, lambda: noted.exists() and noted.read_text() != "")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    pid = int((tmp_path / "pid").read_text())
    await asyncio.to_thread(eventually, lambda: not psutil.pid_exists(pid))


def serve(folder: Path, answer: bytes | None) -> threading.Thread:
    """A VMM's sockets with something else than the agent behind them, for one connection: what it
    says once it was greeted, or None to leave.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "listener"))
    listener.listen()
    for number in range(PORTS):
        (folder / f"agent{number}.sock").symlink_to(folder / "listener")

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            greeting = b""
            while len(greeting.lstrip(b"\0")) < 38:
                greeting += connection.recv(100)

            hello = next(iter(Decoder(frozenset((1, 2))).feed(greeting.lstrip(b"\0"))))
            if answer is not None:
                connection.sendall(answer.replace(b"WELCOME", encode(Kind.WELCOME, hello.payload)))
                while connection.recv(100):
                    pass

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (None, OutcomeUnknown, ErrorCode.STREAM_LOST),
        (b"WELCOME" + encode(Kind.RESET), OutcomeUnknown, ErrorCode.STREAM_LOST),
        (b"WELCOME" + encode(Kind.END, b"not json"), PermanentError, ErrorCode.AGENT_PROTOCOL),
        (b"WELCOME" + b"rubbish", PermanentError, ErrorCode.AGENT_PROTOCOL),
        (
            b"WELCOME" + encode(Kind.END, b'{"version":-1}'),
            PermanentError,
            ErrorCode.AGENT_PROTOCOL,
        ),
        (b"WELCOME", TransientError, ErrorCode.GUEST_TIMEOUT),
    ],
)
async def test_guests_that_do_not_answer_as_they_should(
    run_dir: Path, answer: bytes | None, error: type[Exception], code: ErrorCode
) -> None:
    folder = run_dir / "other"
    folder.mkdir()
    guest = serve(folder, answer)
    try:
        with pytest.raises(error) as caught:
            await GuestAgent(SerialChannel(folder)).ask(Health(), GuestHealth, timeout=0.3)
    finally:
        guest.join()

    assert getattr(caught.value, "code", None) is code


async def test_a_question_about_another_boot_waits_for_one(agent: GuestAgent) -> None:
    health = await agent.ask(Health(), GuestHealth)
    waiting = asyncio.create_task(
        agent.ask(Health(other_than=health.boot_id), GuestHealth, timeout=None)
    )
    other = Health(other_than="00000000-0000-0000-0000-000000000000")
    answered = [(await agent.ask(other, GuestHealth)).boot_id for _ in range(3)]

    assert answered == [health.boot_id] * 3
    assert not waiting.done()
    waiting.cancel()
