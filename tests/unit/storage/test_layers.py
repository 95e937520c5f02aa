"""What a disk consists of is read from its files, whatever they hold."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.storage.disks import write

from banger.api.errors import ErrorCode, PermanentError
from banger.api.sizes import GIB, KIB, MIB
from banger.host.files import allocated_bytes
from banger.host.runner import run
from banger.storage.layers import (
    Header,
    allocated,
    backing_file,
    chain,
    disk_format,
    is_layer,
    layer_path,
    read_header,
    virtual_size,
)
from banger.storage.qcow2 import Qcow2

DISKS = Qcow2()
NAME = b"/base.raw"
FORMAT = struct.pack(">II", 0xE2792ACA, 3) + b"raw".ljust(8, b"\0") + bytes(8)


def header(
    *,
    magic: bytes = b"QFI\xfb",
    version: int = 3,
    offset: int | None = None,
    name: bytes = NAME,
    name_size: int | None = None,
    cluster_bits: int = 16,
    features: int = 0,
    length: int = 104,
    extensions: bytes = FORMAT,
) -> bytes:
    """A qcow2 header by the specification, sound unless told otherwise."""
    place = length + len(extensions) if offset is None else offset
    size = len(name) if name_size is None else name_size
    fixed = struct.pack(">4sIQIIQ", magic, version, place, size, cluster_bits, 4 * MIB)
    rest = struct.pack(">Q", features).rjust(48, b"\0") + bytes(20) + struct.pack(">I", length)
    return (fixed + rest)[:length].ljust(length, b"\0") + extensions + name


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.raw"
    path.touch()
    os.truncate(path, MIB)
    return path


def refusal(disk: Path) -> PermanentError:
    with pytest.raises(PermanentError) as refused:
        chain(disk)
    assert refused.value.code is ErrorCode.STATE_CORRUPT
    assert refused.value.hint
    return refused.value


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster_size", [512, 64 * KIB, 2 * MIB])
async def test_a_header_says_what_qemu_says(
    base: Path, tmp_path: Path, compat: str, cluster_size: int
) -> None:
    disk = tmp_path / "disk.qcow2"
    options = ("-o", f"compat={compat},cluster_size={cluster_size}")
    await run(["qemu-img", "create", "-f", "qcow2", *options, "-b", base, "-F", "raw", disk, "3M"])
    found = json.loads((await run(["qemu-img", "info", "--output=json", disk])).stdout)
    assert virtual_size(disk) == found["virtual-size"]
    assert backing_file(disk) == Path(found["backing-filename"])


async def test_without_a_backing_file_there_is_nothing_below(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    await run(["qemu-img", "create", "-f", "qcow2", disk, "1G"])
    assert read_header(disk) == Header(GIB, None)
    assert chain(disk) == (disk,)


def test_a_sound_header_is_taken(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(header())
    assert read_header(disk) == Header(4 * MIB, Path("/base.raw"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"QFI\xfb",
        header()[:100],
        header()[:-1],
        header(magic=b"QFI\0"),
        header(version=1),
        header(version=4),
        header(cluster_bits=8),
        header(cluster_bits=22),
        header(cluster_bits=2**32 - 1),
        header(length=96),
        header(length=108),
        header()[:100] + b"\xff\xff\xff\xf8" + header()[104:],
        header(features=2),
        header(features=4),
        header(features=1 << 63),
        header(offset=1),
        header(offset=2**64 - 1),
        header(offset=1 << 16),
        header(name_size=2**32 - 1),
        header(name_size=0),
        header(name=b"/" + b"x" * 1023),
        header(name=b"base.raw"),
        header(name=b"nbd://host/base.raw"),
        header(name=b'json:{"driver":"raw"}'),
        header(name=b"/base\0.raw"),
        header(name=b"/base.qcow2"),
        header(extensions=b""),
        header(extensions=bytes(8) + FORMAT),
        header(extensions=struct.pack(">II", 0xE2792ACA, 2**32 - 1)),
        header(extensions=struct.pack(">II", 0xE2792ACA, 3) + b"vdi" + bytes(13)),
    ],
)
def test_what_is_no_sound_header_is_refused(tmp_path: Path, content: bytes) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(content)
    assert str(disk) in refusal(disk).message


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 140), st.integers(0, 255))))
@example(b"", [])
def test_any_header_is_understood_or_refused(tail: bytes, damage: list[tuple[int, int]]) -> None:
    content = bytearray(header() + tail)
    for position, value in damage:
        content[position % len(content)] = value

    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory, "disk.qcow2")
        disk.write_bytes(content)
        with contextlib.suppress(PermanentError):
            assert (read_header(disk).backing or disk).is_absolute()


async def test_a_chain_is_from_the_top_down(base: Path, tmp_path: Path) -> None:
    middle, top = tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    await DISKS.overlay(base, middle)
    await DISKS.overlay(middle, top)
    assert chain(top) == (top, middle, base)
    assert chain(base) == (base,)


async def test_what_a_guest_wrote_into_a_raw_disk_is_never_taken_for_a_header(
    base: Path, tmp_path: Path
) -> None:
    base.write_bytes(header(name=b"/etc/passwd").ljust(MIB, b"\0"))
    top = tmp_path / "top.qcow2"
    await DISKS.overlay(base, top)
    assert chain(top) == (top, base)
    assert virtual_size(top) == MIB
    await DISKS.check(top)


async def test_a_missing_file_anywhere_is_found(base: Path, tmp_path: Path) -> None:
    middle, top = tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    await DISKS.overlay(base, middle)
    await DISKS.overlay(middle, top)
    base.unlink()
    assert str(base) in refusal(top).message
    middle.unlink()
    assert str(middle) in refusal(top).message
    top.unlink()
    assert str(top) in refusal(top).message


async def test_a_loop_is_found(base: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.qcow2", tmp_path / "second.qcow2"
    await DISKS.overlay(base, first)
    await DISKS.overlay(first, second)
    await run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", second, "-F", "qcow2", first])
    assert "below itself" in refusal(second).message


def test_a_directory_is_no_disk(tmp_path: Path) -> None:
    for name in ("disk.raw", "disk.qcow2"):
        (tmp_path / name).mkdir()
        refusal(tmp_path / name)


def test_new_layers_have_names_of_their_own(tmp_path: Path) -> None:
    paths = {layer_path(tmp_path, "qcow2") for _ in range(100)}
    assert len(paths) == 100
    assert all(is_layer(path) and disk_format(path) == "qcow2" for path in paths)
    assert disk_format(layer_path(tmp_path, "raw")) == "raw"


async def test_what_a_disk_takes_is_its_layers_without_the_image(
    base: Path, tmp_path: Path
) -> None:
    image = base.rename(tmp_path / "rootfs.ext4")
    image.write_bytes(os.urandom(MIB))
    middle, top = layer_path(tmp_path, "qcow2"), layer_path(tmp_path, "qcow2")
    await DISKS.overlay(image, middle)
    await write(middle, "write -P 1 0 1M")
    await DISKS.overlay(middle, top)
    assert allocated(top) == allocated_bytes(top) + allocated_bytes(middle) > MIB


async def test_a_raw_work_disk_below_counts(base: Path, tmp_path: Path) -> None:
    work = base.rename(layer_path(tmp_path, "raw"))
    work.write_bytes(os.urandom(MIB))
    top = layer_path(tmp_path, "qcow2")
    await DISKS.overlay(work, top)
    assert allocated(top) == allocated_bytes(top) + allocated_bytes(work) > MIB


def test_a_list_comes_whatever_is_broken(tmp_path: Path) -> None:
    assert allocated(tmp_path / "missing.qcow2") == 0
    (tmp_path / "broken.qcow2").write_bytes(b"broken")
    assert allocated(tmp_path / "broken.qcow2") == allocated_bytes(tmp_path / "broken.qcow2")
