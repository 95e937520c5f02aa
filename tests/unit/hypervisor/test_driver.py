"""The driver with real QEMU processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.hypervisor import tiny_kernel
from tests.unit.hypervisor.waiting import until

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.channel.serial import PORTS
from banger.host.process import reference
from banger.host.runner import run
from banger.hypervisor.base import Disk, ExitReason, Forward, LaunchPlan, VMMHandle
from banger.hypervisor.qemu.driver import Qemu


def ended(qemu: Qemu, handle: VMMHandle) -> asyncio.Future[ExitReason]:
    """What a watch of `handle` will be told."""
    future: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()
    qemu.watch(handle, future.set_result)
    return future


async def refused(qemu: Qemu, plan: LaunchPlan) -> BangerError:
    """The error of a launch, after which nothing is left of it."""
    with pytest.raises(BangerError) as raised:
        await qemu.launch(plan)

    assert list(plan.run_dir.iterdir()) == []
    assert await qemu.find(plan.run_dir) is None
    return raised.value


def with_kernel(plan: LaunchPlan, kernel: bytes) -> LaunchPlan:
    plan.kernel.write_bytes(kernel)
    return plan


class Children:
    """The child processes that came after this was made; other tests of this process had theirs."""

    def __init__(self) -> None:
        self._earlier = _child_pids()

    def all(self) -> set[int]:
        return _child_pids() - self._earlier

    def zombies(self) -> set[int]:
        return {pid for pid in self.all() if reference(pid) is None}


def _child_pids() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


@pytest.fixture
def children() -> Children:
    """Ask for it before what starts a process."""
    return Children()


async def test_capabilities_name_version_and_accelerator(qemu: Qemu) -> None:
    capabilities = await qemu.capabilities()

    assert capabilities.name == "QEMU"
    assert capabilities.version[0].isdigit()
    assert capabilities.accelerator == "tcg"
    assert capabilities.accelerator_reason


async def test_a_launched_vmm_runs_its_guest(qemu: Qemu, plan: LaunchPlan) -> None:
    handle = await qemu.launch(plan)

    assert qemu.alive(handle)
    assert handle.accelerator == "tcg"
    await until(lambda: plan.console_log.read_text() == "up\n")


async def test_what_a_vmm_leaves_in_its_directory_is_private(
    running: VMMHandle, plan: LaunchPlan
) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in plan.run_dir.iterdir()}

    streams = {f"agent{number}.sock" for number in range(PORTS)}
    others = {"qmp.sock", "qemu.pid", "qemu.log"}
    assert modes == dict.fromkeys(streams | others, 0o600)
    assert plan.console_log.stat().st_mode & 0o777 == 0o600
    assert running.run_dir == str(plan.run_dir)


async def test_a_vmm_is_found_by_another_daemon(running: VMMHandle, plan: LaunchPlan) -> None:
    assert await Qemu().find(plan.run_dir) == running


async def test_a_vmm_is_found_without_its_pidfile(running: VMMHandle, plan: LaunchPlan) -> None:
    (plan.run_dir / "qemu.pid").unlink()

    assert await Qemu().find(plan.run_dir) == running


@pytest.mark.parametrize("text", ["", "nonsense", "0", "1", "99999999", "²"])
async def test_a_pidfile_is_not_trusted(plan: LaunchPlan, text: str) -> None:
    (plan.run_dir / "qemu.pid").write_text(text)

    assert await Qemu().find(plan.run_dir) is None


async def test_a_process_that_only_has_the_pid_is_not_the_vmm(
    qemu: Qemu, running: VMMHandle
) -> None:
    other = replace(running, start_time=running.start_time - 1)

    assert not qemu.alive(other)
    assert qemu.usage(other) is None
    await qemu.kill(other, signal.SIGKILL)
    await qemu.terminate(other, 1)
    assert qemu.alive(running)


async def test_a_guest_that_powers_off_ends_its_vmm(
    qemu: Qemu, plan: LaunchPlan, children: Children
) -> None:
    handle = await qemu.launch(with_kernel(plan, tiny_kernel.power_off()))

    assert await ended(qemu, handle) is ExitReason.GUEST_POWEROFF
    assert not qemu.alive(handle)
    assert children.zombies() == set()


async def test_the_reason_is_known_to_who_did_not_watch(qemu: Qemu, plan: LaunchPlan) -> None:
    handle = await qemu.launch(with_kernel(plan, tiny_kernel.power_off()))
    await until(lambda: not qemu.alive(handle))

    late = Qemu()
    assert late.exit_reason(handle) is ExitReason.GUEST_POWEROFF
    assert await ended(late, handle) is ExitReason.GUEST_POWEROFF


async def test_a_guest_that_reboots_keeps_its_vmm(qemu: Qemu, plan: LaunchPlan) -> None:
    handle = await qemu.launch(with_kernel(plan, tiny_kernel.reboot()))

    await until(lambda: plan.console_log.read_bytes().startswith(b"bbb"))

    assert qemu.alive(handle)


async def test_a_vmm_that_somebody_kills_has_died(qemu: Qemu, running: VMMHandle) -> None:
    reason = ended(qemu, running)
    os.kill(running.pid, signal.SIGKILL)

    assert await reason is ExitReason.DIED


async def test_a_vmm_that_banger_kills_was_stopped(
    children: Children, qemu: Qemu, running: VMMHandle
) -> None:
    reason = ended(qemu, running)
    await qemu.kill(running, signal.SIGKILL)

    assert not qemu.alive(running)
    assert await reason is ExitReason.STOPPED
    assert children.zombies() == set()


async def test_a_terminated_vmm_was_stopped(
    children: Children, qemu: Qemu, running: VMMHandle
) -> None:
    await qemu.terminate(running, 10)

    assert qemu.exit_reason(running) is ExitReason.STOPPED
    assert children.zombies() == set()


async def test_a_wedged_vmm_hangs_nothing(qemu: Qemu, running: VMMHandle) -> None:
    reason = ended(qemu, running)
    await qemu.kill(running, signal.SIGSTOP)

    assert qemu.usage(running) is not None
    await qemu.terminate(running, 0.05)

    assert await reason is ExitReason.STOPPED


async def test_a_vmm_that_is_gone_can_be_ended_again(qemu: Qemu, running: VMMHandle) -> None:
    await qemu.kill(running, signal.SIGKILL)

    await qemu.terminate(running, 1)
    await qemu.kill(running, signal.SIGTERM)
    assert qemu.usage(running) is None


async def test_a_second_watch_takes_the_place_of_the_first(qemu: Qemu, running: VMMHandle) -> None:
    first, second = ended(qemu, running), ended(qemu, running)
    await qemu.kill(running, signal.SIGKILL)

    await second
    assert not first.done()


async def test_usage_is_what_the_process_takes(qemu: Qemu, running: VMMHandle) -> None:
    usage = qemu.usage(running)

    assert usage is not None
    assert 0 < usage.pss_bytes <= usage.rss_bytes < 200 << 20


async def test_a_forward_in_use_is_refused_with_its_port(qemu: Qemu, plan: LaunchPlan) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        forward = Forward(host_ip="127.0.0.1", host_port=port, guest_port=22)

        error = await refused(qemu, replace(plan, nic=replace(plan.nic, forwards=(forward,))))

    assert isinstance(error, CallerError)
    assert error.code is ErrorCode.PORT_TAKEN
    assert str(port) in error.message


@pytest.mark.parametrize("memory", [1 << 50, 1 << 62])
async def test_memory_nobody_has_is_refused(qemu: Qemu, plan: LaunchPlan, memory: int) -> None:
    error = await refused(qemu, replace(plan, memory=memory))

    assert error.code is ErrorCode.INSUFFICIENT_MEMORY


async def test_a_disk_in_use_is_refused_by_name(qemu: Qemu, plan: LaunchPlan, home: Path) -> None:
    disk = Disk(serial="work", path=home / "a, b.raw", format="raw")
    disk.path.touch()
    os.truncate(disk.path, 1 << 20)
    first = await qemu.launch(replace(plan, disks=(disk,)))
    second = home / "run2"
    second.mkdir()

    error = await refused(qemu, replace(plan, disks=(disk,), run_dir=second))

    assert error.code is ErrorCode.LAUNCH_FAILED
    assert "a, b.raw is in use by another process" in error.message
    await qemu.kill(first, signal.SIGKILL)


async def test_disks_of_both_formats_are_attached(qemu: Qemu, plan: LaunchPlan, home: Path) -> None:
    base, root, work = home / "base", home / "root.qcow2", home / "work.raw"
    for path in (base, work):
        path.touch()
        os.truncate(path, 1 << 20)

    await run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", root])
    disks = (
        Disk(serial="root", path=root, format="qcow2"),
        Disk(serial="work", path=work, format="raw"),
        Disk(serial="seed", path=base, format="raw", readonly=True),
    )

    assert qemu.alive(await qemu.launch(replace(plan, disks=disks)))


async def test_anything_else_is_refused_in_qemus_own_words(
    qemu: Qemu, plan: LaunchPlan, home: Path
) -> None:
    disk = Disk(serial="root", path=home / "none", format="raw")

    error = await refused(qemu, replace(plan, disks=(disk,)))

    assert error.code is ErrorCode.LAUNCH_FAILED
    assert "No such file or directory" in error.message


async def test_a_qemu_that_is_killed_at_once_is_reported(plan: LaunchPlan, home: Path) -> None:
    program = home / "qemu"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)

    error = await refused(Qemu(str(program), "tcg"), plan)

    assert "killed by signal 9" in error.message


async def test_a_launch_that_is_cancelled_leaves_nothing(
    plan: LaunchPlan, home: Path, children: Children
) -> None:
    program = home / "qemu"
    program.write_text(f"#!/bin/sh\ntouch {home}/started\nexec sleep 600\n")
    program.chmod(0o755)
    launch = asyncio.create_task(Qemu(str(program), "tcg").launch(plan))
    await until((home / "started").exists)

    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch

    assert list(plan.run_dir.iterdir()) == []
    assert children.all() == set()


async def test_without_qemu_the_hint_names_the_package(plan: LaunchPlan) -> None:
    error = await refused(Qemu("qemu-none"), plan)

    assert error.code is ErrorCode.HYPERVISOR_MISSING
    assert error.hint == "sudo apt-get install qemu-system-x86"


async def test_a_socket_path_the_kernel_refuses_is_named(qemu: Qemu, plan: LaunchPlan) -> None:
    run_dir = plan.run_dir / ("x" * 100)
    run_dir.mkdir()

    error = await refused(qemu, replace(plan, run_dir=run_dir))

    assert error.code is ErrorCode.CONFIG_INVALID
    assert "BANGER_HOME" in (error.hint or "")


async def test_odd_directories_are_no_obstacle(qemu: Qemu, plan: LaunchPlan, home: Path) -> None:
    odd = home / "a b,c=d"
    odd.mkdir()
    for name in ("kernel", "initrd"):
        (odd / name).write_bytes((home / name).read_bytes())

    moved = replace(
        plan,
        kernel=odd / "kernel",
        initrd=odd / "initrd",
        run_dir=odd,
        console_log=odd / "console.log",
    )
    handle = await qemu.launch(moved)

    assert await qemu.find(odd) == handle
    await qemu.kill(handle, signal.SIGKILL)


async def test_a_driver_that_lets_go_leaves_the_vmm_alone(qemu: Qemu, running: VMMHandle) -> None:
    first = Qemu()
    reason = ended(first, running)

    first.close()

    assert qemu.alive(running)
    assert not reason.done()
