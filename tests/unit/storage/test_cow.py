"""Files that dm snapshots write to: empty, and long enough for all that a guest can write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode
from banger.api.sizes import GIB, MIB
from banger.host.files import allocated_bytes
from banger.privileged.gates.names import snapshot_name
from banger.storage.cow import Cow, cow_length, device_name, device_size
from banger.storage.garbage import list_layers, unreachable
from banger.storage.layers import chain, layer_path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.ext4"
    path.write_bytes(bytes(MIB))
    return path


async def test_a_new_one_is_private_takes_no_room_and_has_room_for_the_whole_disk(
    base: Path, tmp_path: Path
) -> None:
    disk = layer_path(tmp_path, "cow")
    await Cow().create(base, disk, GIB)

    assert disk.stat().st_mode & 0o777 == 0o600
    assert disk.stat().st_size > GIB
    assert allocated_bytes(disk) == 0
    assert chain(disk) == (disk,)


async def test_what_a_crash_left_of_it_is_replaced(base: Path, tmp_path: Path) -> None:
    disk = layer_path(tmp_path, "cow")
    disk.with_name(f"{disk.name}.part").write_bytes(b"half")
    await Cow().create(base, disk, 2 * MIB)
    assert disk.read_bytes() == bytes(cow_length(2 * MIB))


async def test_less_than_the_image_is_refused(base: Path, tmp_path: Path) -> None:
    disk = layer_path(tmp_path, "cow")
    with pytest.raises(CallerError) as refused:
        await Cow().create(base, disk, MIB - 1)

    assert refused.value.code == ErrorCode.DISK_TOO_SMALL
    assert not disk.exists()


async def test_it_is_a_layer_like_others_to_the_garbage_collector(
    base: Path, tmp_path: Path
) -> None:
    kept, lost = layer_path(tmp_path, "cow"), layer_path(tmp_path, "cow")
    for disk in (kept, lost):
        await Cow().create(base, disk, MIB)

    assert unreachable(list_layers(tmp_path), [kept]).files == (lost,)


@given(size=st.integers(1, 2**44))
def test_every_chunk_of_the_device_and_what_describes_it_has_a_place(size: int) -> None:
    device = device_size(size)
    assert 0 <= device - size < 4096
    chunks = device // 4096
    # dm-snap-persistent.c: a header, then one chunk of metadata before each 256 of data.
    last = 1 + (chunks - 1) // 256 * 257 + 1 + (chunks - 1) % 256
    assert cow_length(device) >= (last + 1) * 4096


@given(vm_id=st.from_regex(r"[0-9a-f]{12}", fullmatch=True))
def test_the_root_helper_takes_the_names(vm_id: str) -> None:
    assert snapshot_name(device_name(vm_id)) == f"fc-rootfs-{vm_id}"
