"""What banger says to Firecracker is what Firecracker understands."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from banger.api.errors import BangerError, ErrorCode, PermanentError
from banger.hypervisor.base import LaunchPlan, MemoryImage
from banger.hypervisor.firecracker import config, failures
from banger.hypervisor.firecracker.api import RefusedError, connected, parse_head
from banger.hypervisor.firecracker.model import (
    BalloonTarget,
    BootSource,
    Drive,
    Logger,
    MachineConfig,
    Metrics,
    NetworkInterface,
    RateLimiter,
    RunState,
    Setting,
    SnapshotLoad,
    TokenBucket,
    Vsock,
)
from banger.privileged.ops import API_SOCKET


def outside_a_jail(setting: Setting, home: Path) -> Setting:
    """The same with files that are there."""
    (home / "file").touch()
    there = str(home / "file")
    match setting:
        case Logger():
            return replace(setting, log_path=there)
        case Metrics():
            return replace(setting, metrics_path=there)
        case BootSource():
            return replace(setting, kernel_image_path=there, initrd_path=there)
        case Drive():
            return replace(setting, path_on_host=there)
        case Vsock():
            return replace(setting, uds_path=str(home / "vsock.sock"))
        case _:
            return setting


@pytest.fixture
def bound(home: Path) -> Iterator[socket.socket]:
    """The socket of a VMM that does not listen yet."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(home / API_SOCKET))
        yield listener


async def test_a_vmm_may_take_a_moment_to_listen(home: Path, bound: socket.socket) -> None:
    asyncio.get_running_loop().call_later(0.1, bound.listen)
    async with connected(home, patience=60):
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


async def test_one_that_never_listens_is_no_vmm(home: Path, bound: socket.socket) -> None:
    for patience in (0.0, 0.05):
        with pytest.raises(ConnectionRefusedError):
            async with connected(home, patience=patience):
                bound.listen()


async def test_all_of_a_plan_is_taken_up_to_the_start(vmm: Path, plan: LaunchPlan) -> None:
    *machine, start = config.settings(plan)
    async with connected(vmm) as api:
        assert (await api.info()).state == "Not started"
        for setting in machine:
            await api.put(outside_a_jail(setting, vmm))

        # The kernel is an empty file, or there is no KVM.
        with pytest.raises(RefusedError):
            await api.put(start)

        assert (await api.info()).state == "Not started"


async def test_a_restore_is_understood(vmm: Path, plan: LaunchPlan) -> None:
    saved = replace(plan, restore=MemoryImage(directory=vmm))
    *_, load = config.settings(saved)
    assert isinstance(load, SnapshotLoad)
    async with connected(vmm) as api:
        with pytest.raises(RefusedError, match="No such file"):
            await api.put(load)


async def test_rate_limits_are_understood(vmm: Path) -> None:
    bucket = TokenBucket(size=1 << 20, refill_time=100, one_time_burst=1 << 21)
    limit = RateLimiter(bandwidth=bucket, ops=TokenBucket(size=100, refill_time=1000))
    (vmm / "disk").touch()
    async with connected(vmm) as api:
        disk = Drive(
            drive_id="root", path_on_host=str(vmm / "disk"), is_read_only=True, rate_limiter=limit
        )
        await api.put(disk)
        await api.put(
            NetworkInterface(
                iface_id="eth0",
                host_dev_name="none",
                guest_mac="06:00:00:00:00:01",
                rx_rate_limiter=limit,
                tx_rate_limiter=limit,
            )
        )


async def test_bounds_on_a_guest_that_runs_are_understood(vmm: Path, plan: LaunchPlan) -> None:
    bounded = replace(plan, disk_rate=1 << 20, net_rate=1 << 20)
    saved = replace(bounded, restore=MemoryImage(directory=vmm))
    *_, root, work, nic = config.settings(saved)
    async with connected(vmm) as api:
        for limit in (root, work, nic):
            with pytest.raises(RefusedError, match="not supported before starting"):
                await api.put(limit)


async def test_a_balloon_is_understood(vmm: Path) -> None:
    async with connected(vmm) as api:
        with pytest.raises(RefusedError, match="not supported before starting"):
            await api.put(BalloonTarget(amount_mib=64))

        with pytest.raises(RefusedError, match="not supported before starting"):
            await api.balloon()


async def test_a_refusal_says_why_and_the_connection_goes_on(vmm: Path) -> None:
    async with connected(vmm) as api:
        with pytest.raises(RefusedError, match="number of vCPUs"):
            await api.put(MachineConfig(vcpu_count=33, mem_size_mib=128))

        with pytest.raises(RefusedError, match="before starting"):
            await api.set_state(RunState(state="Paused"))

        await api.put(MachineConfig(vcpu_count=1, mem_size_mib=128))


async def test_no_vmm_is_an_error_of_ours(home: Path) -> None:
    async def ask() -> None:
        with failures.explained(ErrorCode.VM_NOT_RUNNING, "pausing the VM"):
            async with connected(home) as api:
                await api.put(Logger(level="Error"))

    with pytest.raises(PermanentError) as raised:
        await ask()

    assert raised.value.code is ErrorCode.VM_NOT_RUNNING


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("Cannot write the memory file: No space left on device", ErrorCode.INSUFFICIENT_DISK),
        ("Memory: Cannot allocate memory (os error 12)", ErrorCode.INSUFFICIENT_MEMORY),
        ("Error creating KVM object: Permission denied", ErrorCode.UNSUPPORTED_HOST),
        ("Open tap device failed: Resource busy (os error 16)", ErrorCode.LAUNCH_FAILED),
        ("something\x1b[2J new", ErrorCode.SAVE_FAILED),
    ],
)
def test_its_words_become_errors(reason: str, code: ErrorCode) -> None:
    with (
        pytest.raises(BangerError) as raised,
        failures.explained(ErrorCode.SAVE_FAILED, "saving the VM"),
    ):
        raise RefusedError(reason)

    assert raised.value.code is code
    assert raised.value.message.isprintable()


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_answer_breaks_the_client(head: bytes) -> None:
    try:
        status, length = parse_head(head)
    except ConnectionError:
        return

    assert 0 <= status <= 999
    assert 0 <= length <= 1 << 20


def test_an_answer_has_a_status_and_a_length() -> None:
    assert parse_head(b"HTTP/1.1 204 \r\nServer: x\r\n\r\n") == (204, 0)
    assert parse_head(b"HTTP/1.1 400 \r\nContent-Length: 12\r\n\r\n") == (400, 12)
    with pytest.raises(ConnectionError):
        parse_head(b"HTTP/1.1 200 \r\nContent-Length: 9999999\r\n\r\n")
