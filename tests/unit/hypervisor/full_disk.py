"""What checkpoints do on a disk that is full: run as a program, in a mount namespace of its own.

    unshare --mount python full_disk.py SCENARIO DIRECTORY

as tests/unit/storage/full_disk.py. tests/unit/hypervisor/test_full_disk.py runs them all.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.hypervisor import tiny_kernel
from tests.unit.hypervisor.checkpoints import MIB, disk, overlay, read, write
from tests.unit.hypervisor.plans import new_plan
from tests.unit.hypervisor.waiting import until

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor.base import MemoryImage, VMMHandle
from banger.hypervisor.qemu.driver import Qemu

Scenario = Callable[[Qemu, VMMHandle, Path, Path], Awaitable[None]]


async def saving(qemu: Qemu, handle: VMMHandle, full: Path, outside: Path) -> None:
    top = overlay(outside / "top", outside / "root")
    with refused(full):
        await qemu.save(handle, full / "stream", [disk("root", top)], resume=True)
    assert not await qemu.paused(handle)
    assert await qemu.top(handle, "root") in (top, outside / "root")
    await qemu.save(handle, outside / "stream", [], resume=True)


async def saving_a_paused_guest(qemu: Qemu, handle: VMMHandle, full: Path, _: Path) -> None:
    await qemu.pause(handle)
    with refused(full):
        await qemu.save(handle, full / "stream", [], resume=True)
    assert await qemu.paused(handle)
    await qemu.resume(handle)


async def saving_for_good(qemu: Qemu, handle: VMMHandle, full: Path, _: Path) -> None:
    with refused(full):
        await qemu.save(handle, full / "stream", [], resume=False)
    assert not await qemu.paused(handle)


async def converting(qemu: Qemu, handle: VMMHandle, full: Path, outside: Path) -> None:
    await qemu.save(handle, outside / "stream", [], resume=True)
    with refused(full):
        await qemu.convert(outside / "stream", MemoryImage(directory=full / "image"))
    assert (outside / "stream").exists()


async def flattening(qemu: Qemu, handle: VMMHandle, full: Path, outside: Path) -> None:
    await write(qemu, handle, "root", 1, length=20 * MIB)
    middle = overlay(outside / "middle", outside / "root")
    await qemu.save(handle, outside / "s0", [disk("root", middle)], resume=True)
    await write(qemu, handle, "root", 2, length=20 * MIB)
    top = overlay(full / "top", middle)
    await qemu.save(handle, outside / "s1", [disk("root", top)], resume=True)
    with refused(full):
        await qemu.flatten(handle, "root", outside / "root")
    assert not await qemu.paused(handle)
    await qemu.kill(handle, 9)
    assert read(top) == 2


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (saving, saving_a_paused_guest, saving_for_good, converting, flattening)
}


@contextmanager
def refused(full: Path) -> Iterator[None]:
    """Whatever the block does fails for want of space, with advice, and leaves nothing new."""
    before = {path.name for path in full.iterdir()}
    with pytest.raises(PermanentError) as refusal:
        yield
    assert refusal.value.code is ErrorCode.INSUFFICIENT_DISK, refusal.value
    assert refusal.value.hint
    assert {path.name for path in full.iterdir()} == before


async def run(scenario: Scenario, full: Path, outside: Path) -> None:
    plan = new_plan(outside, tiny_kernel.full(32 * MIB))
    root = disk("root", overlay(outside / "root", size=64 * MIB))
    qemu = Qemu(accelerator="tcg")
    handle = await qemu.launch(replace(plan, disks=(root,)))
    try:
        await until(lambda: plan.console_log.read_text() == "up\n")
        await scenario(qemu, handle, full, outside)
    finally:
        await qemu.kill(handle, 9)
        qemu.close()


def main() -> None:
    scenario, directory = SCENARIOS[sys.argv[1]], Path(sys.argv[2])
    full, outside = directory / "full", directory / "o"
    full.mkdir()
    outside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", full], check=True)
    asyncio.run(run(scenario, full, outside))


if __name__ == "__main__":
    main()
