"""A real QEMU whose guest goes on writing, with disks of layers."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.hypervisor import tiny_kernel
from tests.unit.hypervisor.checkpoints import disk, overlay
from tests.unit.hypervisor.guests import (
    spoken,
)
from tests.unit.hypervisor.waiting import until

from banger.hypervisor.base import LaunchPlan, VMMHandle
from banger.hypervisor.qemu.driver import Qemu


@pytest.fixture
def kernel() -> bytes:
    return tiny_kernel.alphabet()


@pytest.fixture
def plan(plan: LaunchPlan, kernel: bytes, home: Path) -> LaunchPlan:
    """A VM that goes on writing the alphabet, with two disks."""
    plan.kernel.write_bytes(kernel)
    disks = tuple(disk(serial, overlay(home / serial)) for serial in ("root", "work"))
    return replace(plan, disks=disks)


@pytest.fixture
async def qemu(home: Path) -> AsyncIterator[Qemu]:
    """The driver; no VMM that it launches outlives the test."""
    driver = Qemu(accelerator="tcg")
    yield driver
    for pidfile in home.glob("*/qemu.pid"):
        left = await driver.find(pidfile.parent)
        if left is not None:
            await driver.kill(left, signal.SIGKILL)

    driver.close()


@pytest.fixture
async def running(qemu: Qemu, plan: LaunchPlan) -> VMMHandle:
    handle = await qemu.launch(plan)
    await until(lambda: len(spoken(plan)) > 3)
    return handle
