"""The agent behind what Firecracker's vsock is on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.channel.device import Device

from banger.api.errors import ErrorCode, TransientError
from banger.channel.aio import GuestAgent
from banger.channel.calls import GuestCalls
from banger.channel.requests import Exec, Exited, GuestHealth, Health
from banger.channel.serial import SerialChannel
from banger.channel.vsock import AGENT_PORT, SOCKET, VsockChannel
from banger.channel.ways import channel_in
from banger.guest.agent.main import VSOCK_PORT


@pytest.fixture
def device(run_dir: Path) -> Iterator[Device]:
    device = Device(run_dir, refusals=3)
    yield device
    device.close()


def test_both_ends_mean_the_same_port() -> None:
    assert VSOCK_PORT == AGENT_PORT


def test_an_agent_that_does_not_listen_yet_is_asked_again(run_dir: Path, device: Device) -> None:
    health = GuestCalls(VsockChannel(run_dir)).ask(Health(), GuestHealth)
    assert health.boot_id
    assert device.refused == 3


async def test_the_daemon_asks_again_too(run_dir: Path, device: Device) -> None:
    agent = GuestAgent(VsockChannel(run_dir))
    ran = await agent.run(Exec(argv=("cat",)), stdin=b"x" * 100_000)
    assert ran.exited.code == 0
    assert ran.stdout == b"x" * 100_000
    assert device.refused == 3


def test_patience_ends(run_dir: Path) -> None:
    device = Device(run_dir, refusals=1_000_000)
    try:
        with pytest.raises(TransientError) as raised:
            GuestCalls(VsockChannel(run_dir), patience=0.1).ask(Health(), GuestHealth)
    finally:
        device.close()

    assert raised.value.code is ErrorCode.GUEST_TIMEOUT
    assert device.refused > 1


def test_streams_do_not_run_out_and_are_always_in_order(run_dir: Path, device: Device) -> None:
    channel = VsockChannel(run_dir)
    streams = [channel.connect(reserved=number % 2 == 0) for number in range(40)]
    assert all(stream.aligned for stream in streams)
    assert channel.aligned()
    with channel.held() as held:
        assert held == ()

    for stream in streams:
        stream.close()

    ended = GuestCalls(channel).ask(Exec(argv=("true",)), Exited)
    assert ended.code == 0


def test_without_a_vmm_there_is_no_way_in(tmp_path: Path) -> None:
    with pytest.raises(TransientError) as raised:
        VsockChannel(tmp_path).connect()

    assert raised.value.code is ErrorCode.AGENT_UNREACHABLE


def test_the_way_in_is_the_one_that_is_there(run_dir: Path) -> None:
    assert isinstance(channel_in(run_dir), SerialChannel)
    (run_dir / SOCKET).touch()
    assert isinstance(channel_in(run_dir), VsockChannel)
