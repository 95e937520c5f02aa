"""Real QEMU processes with kernels of some bytes, and their own short directories."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.unit.hypervisor import tiny_kernel
from tests.unit.hypervisor.plans import new_plan

from banger.hypervisor.base import LaunchPlan, VMMHandle
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
    return new_plan(home, tiny_kernel.idle())


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
