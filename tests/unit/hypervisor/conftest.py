"""Real QEMU processes with kernels of some bytes, and their own short directories."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.unit.hypervisor import tiny_kernel

from banger.hypervisor.base import LaunchPlan, UserNic, VMMHandle
from banger.hypervisor.qemu.driver import Qemu


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory short enough for sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="bh-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def plan(home: Path) -> LaunchPlan:
    """A VM that is up at once and then idles."""
    run_dir = home / "run"
    run_dir.mkdir(mode=0o700)
    kernel = home / "kernel"
    kernel.write_bytes(tiny_kernel.idle())
    initrd = home / "initrd"
    initrd.write_bytes(b"\0" * 4096)
    return LaunchPlan(
        vm_id="0123456789ab",
        name="dev",
        vcpus=1,
        memory=64 << 20,
        kernel=kernel,
        initrd=initrd,
        cmdline="quiet",
        disks=(),
        nic=UserNic(
            mac="52:54:00:12:34:56",
            cidr="10.213.0.0/16",
            gateway="10.213.0.2",
            dns="10.213.0.3",
            address="10.213.0.17",
            egress=False,
        ),
        run_dir=run_dir,
        console_log=home / "console.log",
    )


@pytest.fixture
async def qemu(plan: LaunchPlan) -> AsyncIterator[Qemu]:
    """The driver; no VMM of `plan` outlives the test."""
    driver = Qemu(accelerator="tcg")
    yield driver
    left = await driver.find(plan.run_dir)
    if left is not None:
        await driver.kill(left, 9)

    driver.close()


@pytest.fixture
async def running(qemu: Qemu, plan: LaunchPlan) -> VMMHandle:
    """The VMM of `plan`, started."""
    return await qemu.launch(plan)
