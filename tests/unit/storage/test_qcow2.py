"""Root disks: overlays that know their base, checked before they are attached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.storage.conftest import Seed

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.sizes import GIB, MIB
from banger.host.files import allocated_bytes
from banger.host.runner import run
from banger.storage.base import LayeredDisks
from banger.storage.qcow2 import Qcow2

DISKS: LayeredDisks = Qcow2()


async def test_an_overlay_reads_as_its_base(seed: Seed, tmp_path: Path) -> None:
    disk = tmp_path / "root.qcow2"
    await DISKS.create(seed.path, disk, 64 * MIB)
    await run(["qemu-img", "convert", "-O", "raw", disk, tmp_path / "read"])
    assert (tmp_path / "read").read_bytes() == seed.path.read_bytes()


async def test_an_overlay_names_its_base_and_the_bases_format(seed: Seed, tmp_path: Path) -> None:
    disk = tmp_path / "root.qcow2"
    await DISKS.create(seed.path, disk, 10 * GIB)
    found = json.loads((await run(["qemu-img", "info", "--output=json", disk])).stdout)
    assert found["virtual-size"] == 10 * GIB
    assert found["backing-filename"] == str(seed.path)
    assert found["backing-filename-format"] == "raw"
    assert allocated_bytes(disk) < MIB


async def test_names_with_special_characters_are_just_names(seed: Seed, tmp_path: Path) -> None:
    directory = tmp_path / "a, b:c=d #e%20"
    directory.mkdir()
    base = seed.path.rename(directory / "base,file.name=x")
    await DISKS.create(base, directory / "root.qcow2", 64 * MIB)
    await DISKS.check(directory / "root.qcow2")


async def test_smaller_than_the_base_is_refused(seed: Seed, tmp_path: Path) -> None:
    with pytest.raises(CallerError) as refusal:
        await DISKS.create(seed.path, tmp_path / "root.qcow2", 63 * MIB)
    assert refusal.value.code is ErrorCode.DISK_TOO_SMALL
    assert not (tmp_path / "root.qcow2").exists()


async def test_a_sound_overlay_passes(seed: Seed, tmp_path: Path) -> None:
    await DISKS.create(seed.path, tmp_path / "root.qcow2", 64 * MIB)
    await DISKS.check(tmp_path / "root.qcow2")


async def test_a_missing_base_is_found(seed: Seed, tmp_path: Path) -> None:
    await DISKS.create(seed.path, tmp_path / "root.qcow2", 64 * MIB)
    seed.path.unlink()
    with pytest.raises(PermanentError) as refusal:
        await DISKS.check(tmp_path / "root.qcow2")
    assert refusal.value.code is ErrorCode.STATE_CORRUPT


@pytest.mark.parametrize("content", [b"", b"not a disk", b"QFI\xfb" + b"\xff" * 500])
async def test_what_is_no_overlay_is_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "root.qcow2").write_bytes(content)
    with pytest.raises(PermanentError) as refusal:
        await DISKS.check(tmp_path / "root.qcow2")
    assert refusal.value.code is ErrorCode.STATE_CORRUPT
