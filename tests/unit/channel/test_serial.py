"""Ports as streams: one holder each, freed however that ends, and how each was left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, TransientError
from banger.channel.calls import GuestCalls
from banger.channel.requests import Exec, Exited, GuestHealth, Health
from banger.channel.serial import PORTS, RESERVED, SerialChannel, SerialStream

FREE = PORTS - RESERVED


def test_each_port_has_one_holder_and_the_daemons_are_its_own(channel: SerialChannel) -> None:
    streams = [channel.connect() for _ in range(FREE)]
    with pytest.raises(TransientError) as caught:
        channel.connect()

    assert caught.value.code is ErrorCode.AGENT_BUSY
    own = [channel.connect(reserved=True) for _ in range(RESERVED)]
    streams.pop().close()
    streams.append(channel.connect())
    for stream in [*streams, *own]:
        stream.close()


def test_a_port_of_a_killed_process_is_free_and_not_aligned(run_dir: Path) -> None:
    SerialChannel(run_dir).mark_aligned()
    script = (
        "import sys, time; from pathlib import Path; "
        "from banger.channel.serial import SerialChannel as C; "
        f"s = [C(Path({str(run_dir)!r})).connect() for _ in range({FREE})]; "
        "print(all(x.aligned for x in s), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    with pytest.raises(TransientError):
        SerialChannel(run_dir).connect()

    holder.kill()
    holder.communicate()
    stream = SerialChannel(run_dir).connect()

    assert not stream.aligned
    stream.close()


def test_a_request_that_ended_well_leaves_its_port_aligned(
    channel: SerialChannel, calls: GuestCalls
) -> None:
    assert calls.ask(Health(), GuestHealth).version == 1
    aligned = [stream.aligned for stream in hold_all(channel)]

    assert aligned.count(True) == 1


def test_an_aligned_port_is_preferred(channel: SerialChannel, calls: GuestCalls) -> None:
    for _ in range(3):
        calls.ask(Exec(argv=("true",)), Exited)

    aligned = [stream.aligned for stream in hold_all(channel)]
    assert aligned.count(True) == 1


def test_streams_that_are_held_are_those_left_aligned_and_nobody_gets_them(
    channel: SerialChannel, calls: GuestCalls
) -> None:
    calls.ask(Health(), GuestHealth)
    with channel.held() as held:
        streams = [channel.connect() for _ in range(FREE - 1)]
        with pytest.raises(TransientError):
            channel.connect()

    assert len(held) == 1
    assert not any(stream.aligned for stream in streams)
    for stream in streams:
        stream.close()


def test_only_the_streams_named_are_marked(run_dir: Path) -> None:
    channel = SerialChannel(run_dir)
    channel.mark_aligned([RESERVED, RESERVED + 3])

    with channel.held() as held:
        assert held == (RESERVED, RESERVED + 3)


def test_a_stream_is_closed_once(channel: SerialChannel) -> None:
    stream = channel.connect()
    stream.close(aligned=True)
    stream.close()
    taken = hold_all(channel)

    assert [stream.aligned for stream in taken].count(True) == 1


@pytest.mark.parametrize("there", [False, True])
def test_a_vm_that_does_not_run_is_unreachable(tmp_path: Path, there: bool) -> None:
    folder = tmp_path if there else tmp_path / "nothing"
    with pytest.raises(TransientError) as caught:
        SerialChannel(folder).connect()

    assert caught.value.code is ErrorCode.AGENT_UNREACHABLE


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    for number in range(PORTS):
        (tmp_path / f"agent{number}.lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        SerialChannel(tmp_path).connect()

    assert not (tmp_path / "elsewhere").exists()


def test_a_vmm_that_is_silent_is_not_waited_for_longer_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path is short; that of the directory may be long.
        monkeypatch.chdir(tmp_path)
        listener.bind("listener")
        listener.listen(20)
        for number in range(PORTS):
            (tmp_path / f"agent{number}.sock").symlink_to("listener")

        before = time.monotonic()
        with pytest.raises(TransientError) as caught:
            GuestCalls(SerialChannel(tmp_path), patience=0.2).ask(Health(), GuestHealth)

    assert caught.value.code is ErrorCode.GUEST_TIMEOUT
    assert time.monotonic() - before < 10


def hold_all(channel: SerialChannel) -> list[SerialStream]:
    streams = [channel.connect() for _ in range(FREE)]
    for stream in streams:
        stream.close()

    return streams
