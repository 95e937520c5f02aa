"""Guests that say the alphabet over and over, and what can be asked of them and of their VMMs."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from tests.unit.hypervisor.checkpoints import checkpoint, elsewhere
from tests.unit.hypervisor.waiting import until

from banger.api.errors import BangerError
from banger.hypervisor.base import LaunchPlan, MemoryImage, VMMHandle
from banger.hypervisor.qemu.driver import Qemu
from banger.hypervisor.qemu.qmp import Qmp

LETTERS = b"abcdefghijklmnopqrstuvwxyz" * 10_000


def spoken(plan: LaunchPlan) -> bytes:
    return plan.console_log.read_bytes()


async def stands_still(qemu: Qemu, handle: VMMHandle, plan: LaunchPlan) -> bool:
    """Whether the guest says nothing while another one, which has no head start, says much."""
    before = spoken(plan)
    other = elsewhere(plan, f"other{handle.pid}-{len(before)}", disks=())
    clock = await qemu.launch(replace(other, restore=None))
    await until(lambda: len(spoken(other)) > 3)
    await qemu.kill(clock, signal.SIGKILL)
    return spoken(plan) == before


async def goes_on(plan: LaunchPlan) -> None:
    before = len(spoken(plan))
    await until(lambda: len(spoken(plan)) > before + 3)


async def image_and_letter(
    qemu: Qemu, handle: VMMHandle, plan: LaunchPlan, home: Path
) -> tuple[MemoryImage, bytes]:
    """A guest saved between two letters, and the one it would say next. Its VMM is no more."""
    await qemu.pause(handle)
    last = spoken(plan)[-1:]
    image = await checkpoint(qemu, handle, home)
    await qemu.kill(handle, signal.SIGKILL)
    return image, LETTERS[LETTERS.index(last) + 1 :][:1]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def top_node(qmp: Qmp) -> str:
    """The node that the root disk is written to."""
    devices = msgspec.json.decode(await qmp.run("query-block"))
    nodes = (device["inserted"]["node-name"] for device in devices if device["qdev"] == "root")
    return str(next(nodes))


async def refused(qemu: Qemu, plan: LaunchPlan) -> BangerError:
    """The error of a launch, after which nothing is left of it."""
    with pytest.raises(BangerError) as raised:
        await qemu.launch(plan)

    assert list(plan.run_dir.iterdir()) == []
    return raised.value
