"""Work disks: the seed's files at any size, grown without risk, never half there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from pathlib import Path

import pytest
from tests.unit.storage.conftest import Seed
from tests.unit.storage.disks import instead_of, write

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.sizes import GIB, MIB
from banger.host.files import allocated_bytes
from banger.host.runner import run
from banger.storage import ext4
from banger.storage.files import copy_sparse
from banger.storage.qcow2 import Qcow2
from banger.storage.workdisk import create_work_disk, grow_work_disk


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unable(program: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `program` ruins the disk it is given and fails."""
    script = 'echo ruined >"$disk"\necho "no luck" >&2\nexit 1\n'
    instead_of(program, directory, script, monkeypatch)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    directory = tmp_path / "vm"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("size", [64 * MIB, 32 * MIB, 200 * MIB, 3 * GIB])
async def test_a_new_disk_has_the_seeds_files_and_the_size_asked_for(
    seed: Seed, vm: Path, size: int
) -> None:
    disk = vm / "work.raw"
    await create_work_disk(seed.path, disk, size)
    assert disk.stat().st_size == ext4.filesystem_size(disk) == size
    assert await seed.found_on(disk) == seed.contents
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    assert names(vm) == {"work.raw"}


async def test_a_large_disk_costs_only_what_is_on_it(seed: Seed, vm: Path) -> None:
    await create_work_disk(seed.path, vm / "work.raw", 100 * GIB)
    assert allocated_bytes(vm / "work.raw") < 64 * MIB


async def test_an_odd_size_is_rounded_up_to_whole_blocks(seed: Seed, vm: Path) -> None:
    await create_work_disk(seed.path, vm / "work.raw", 100 * MIB + 1)
    assert (vm / "work.raw").stat().st_size == 100 * MIB + 4096


@pytest.mark.parametrize("size", [1, MIB])
async def test_too_small_for_the_seed_is_refused_and_leaves_nothing(
    seed: Seed, vm: Path, size: int
) -> None:
    with pytest.raises(CallerError, match="needs at least") as refusal:
        await create_work_disk(seed.path, vm / "work.raw", size)
    assert refusal.value.code is ErrorCode.DISK_TOO_SMALL
    assert names(vm) == set()


async def test_the_hinted_minimum_is_accepted(seed: Seed, vm: Path) -> None:
    with pytest.raises(CallerError) as refusal:
        await create_work_disk(seed.path, vm / "work.raw", MIB)
    assert refusal.value.hint is not None
    minimum = int(refusal.value.hint.split()[2].rstrip("M")) * MIB
    await create_work_disk(seed.path, vm / "work.raw", minimum)
    assert await seed.found_on(vm / "work.raw") == seed.contents


async def test_what_is_no_file_system_is_refused(vm: Path) -> None:
    (vm / "seed").write_bytes(os.urandom(MIB))
    with pytest.raises(PermanentError) as refusal:
        await create_work_disk(vm / "seed", vm / "work.raw", GIB)
    assert refusal.value.code is ErrorCode.STATE_CORRUPT
    assert names(vm) == {"seed"}


async def test_growing_makes_a_new_disk_with_the_files_of_the_old(seed: Seed, vm: Path) -> None:
    disk, grown = vm / "work.raw", vm / "grown.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    before = digest(disk)
    await grow_work_disk(disk, grown, GIB)
    assert grown.stat().st_size == ext4.filesystem_size(grown) == GIB
    assert await seed.found_on(grown) == seed.contents
    assert digest(disk) == before
    assert stat.S_IMODE(grown.stat().st_mode) == 0o600
    assert names(vm) == {"work.raw", "grown.raw"}


async def test_a_disk_of_many_layers_is_grown_into_one(seed: Seed, vm: Path) -> None:
    disk, top, grown = vm / "work.raw", vm / "top.qcow2", vm / "grown.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    await Qcow2().overlay(disk, vm / "middle.qcow2")
    await Qcow2().overlay(vm / "middle.qcow2", top)
    # A superblock with a label, which only the top has.
    labelled = vm.with_name("labelled")
    copy_sparse(disk, labelled)
    await run(["e2label", labelled, "mine"])
    await write(top, f"write -s {labelled} 0 4k")
    before = {layer: digest(vm / layer) for layer in names(vm)}
    await grow_work_disk(top, grown, GIB)
    assert grown.stat().st_size == ext4.filesystem_size(grown) == GIB
    assert await seed.found_on(grown) == seed.contents
    assert (await run(["e2label", grown])).text.strip() == "mine"
    assert allocated_bytes(grown) < 64 * MIB
    assert stat.S_IMODE(grown.stat().st_mode) == 0o600
    assert {layer: digest(vm / layer) for layer in names(vm) - {"grown.raw"}} == before


async def test_growing_to_the_present_size_is_fine(seed: Seed, vm: Path) -> None:
    disk = vm / "work.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    await grow_work_disk(disk, vm / "grown.raw", 64 * MIB)
    assert await seed.found_on(vm / "grown.raw") == seed.contents


@pytest.mark.parametrize("program", ["qemu-img", "resize2fs"])
async def test_layers_that_cannot_be_grown_leave_nothing(
    seed: Seed, vm: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    await create_work_disk(seed.path, vm / "work.raw", 64 * MIB)
    await Qcow2().overlay(vm / "work.raw", vm / "top.qcow2")
    unable(program, vm.with_name("bin"), monkeypatch)
    with pytest.raises(PermanentError, match=f"{program} failed: no luck"):
        await grow_work_disk(vm / "top.qcow2", vm / "grown.raw", 128 * MIB)
    assert names(vm) == {"work.raw", "top.qcow2"}


async def test_shrinking_is_refused(seed: Seed, vm: Path) -> None:
    disk = vm / "work.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    before = digest(disk)
    with pytest.raises(CallerError, match="cannot shrink") as refusal:
        await grow_work_disk(disk, vm / "grown.raw", 63 * MIB)
    assert refusal.value.code is ErrorCode.DISK_TOO_SMALL
    assert digest(disk) == before


async def test_after_a_crash_growing_can_be_repeated(seed: Seed, vm: Path) -> None:
    disk = vm / "work.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    # All that ever exists until the rename; its content is arbitrary.
    (vm / "grown.raw.part").write_bytes(b"half")
    await grow_work_disk(disk, vm / "grown.raw", 128 * MIB)
    assert await seed.found_on(vm / "grown.raw") == seed.contents
    assert names(vm) == {"work.raw", "grown.raw"}


async def test_a_resize_that_fails_leaves_the_old_disk_alone(
    seed: Seed, vm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = vm / "work.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    before = digest(disk)
    unable("resize2fs", vm.with_name("bin"), monkeypatch)
    with pytest.raises(PermanentError, match="resize2fs failed: no luck"):
        await grow_work_disk(disk, vm / "grown.raw", 128 * MIB)
    assert digest(disk) == before
    assert names(vm) == {"work.raw"}


async def test_a_file_system_that_needs_a_person_is_said_so_and_not_touched(
    seed: Seed, vm: Path
) -> None:
    disk = vm / "work.raw"
    await create_work_disk(seed.path, disk, 64 * MIB)
    # Inode tables, bitmaps and directories, but not the superblock.
    with disk.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"\xff" * 40 * MIB)
    before = digest(disk)
    with pytest.raises(PermanentError) as refusal:
        await grow_work_disk(disk, vm / "grown.raw", 128 * MIB)
    assert refusal.value.code is ErrorCode.STATE_CORRUPT
    assert digest(disk) == before
    assert names(vm) == {"work.raw"}


async def test_cancelling_a_creation_leaves_nothing(
    seed: Seed, vm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()

    async def stuck(disk: Path, size: int) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("banger.storage.ext4.resize", stuck)
    creation = asyncio.create_task(create_work_disk(seed.path, vm / "work.raw", GIB))
    await started.wait()
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert names(vm) == set()
