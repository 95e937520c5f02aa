"""The ELF kernel comes out of a bzImage however it is packed; damage gives one clear error."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.image import samples

from banger.api.errors import ErrorCode, PermanentError
from banger.image import bzimage
from banger.image.bzimage import extract_vmlinux

KERNEL = samples.elf(random.Random(1).randbytes(3000) * 20)


def with_size(packed: bytes, size: int) -> bytes:
    """What scripts/Makefile.lib makes of everything but gzip: the unpacked size comes last."""
    return packed + struct.pack("<I", size)


def zstd_stream(data: bytes) -> bytes:
    """zstd as the kernel has it: made from a pipe, so the frame does not say how long it is."""
    buffer = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(buffer, closefd=False) as writer:
        writer.write(data)

    return buffer.getvalue()


def lz4_legacy(data: bytes) -> bytes:
    block: bytes = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda data: with_size(bz2.compress(data), len(data)),
    "xz": lambda data: with_size(lzma.compress(data), len(data)),
    "lzma": lambda data: with_size(lzma.compress(data, lzma.FORMAT_ALONE), len(data)),
    "zstd": lambda data: with_size(zstd_stream(data), len(data)),
    "lz4": lambda data: with_size(lz4_legacy(data), len(data)),
}


def unpack(folder: Path, image: bytes) -> bytes:
    (folder / "vmlinuz").write_bytes(image)
    extract_vmlinux(folder / "vmlinuz", folder / "vmlinux")
    return (folder / "vmlinux").read_bytes()


def refusal(folder: Path, image: bytes) -> PermanentError | None:
    try:
        unpack(folder, image)
    except PermanentError as error:
        return error
    return None


def complaint(folder: Path, image: bytes) -> str:
    with pytest.raises(PermanentError) as caught:
        unpack(folder, image)

    assert caught.value.code is ErrorCode.IMAGE_CORRUPT
    assert not (folder / "vmlinux").exists()
    return caught.value.message


@pytest.mark.parametrize("packer", PACKERS)
def test_the_kernel_comes_out_as_it_went_in(tmp_path: Path, packer: str) -> None:
    assert unpack(tmp_path, samples.bzimage(PACKERS[packer](KERNEL))) == KERNEL


def test_zero_setup_sectors_mean_four(tmp_path: Path) -> None:
    image = bytearray(samples.bzimage(gzip.compress(KERNEL)))
    image[0x1F1] = 0

    assert unpack(tmp_path, bytes(image)) == KERNEL


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"", "it is not a bzImage"),
        (b"\x7fELF" + bytes(2000), "it is not a bzImage"),
        (samples.bzimage(b"x", version=0x207), "its boot protocol 2.07 is older than 2.08"),
        (samples.bzimage(b""), "its header points outside the file"),
        (samples.bzimage(b"x" * 5000)[:4000], "its header points outside the file"),
        (samples.bzimage(b"what is this"), "its compression is unknown"),
        (samples.bzimage(gzip.compress(b"text")), "not a 64-bit ELF file"),
        (samples.bzimage(gzip.compress(samples.elf(machine=183))), "it is not for x86-64"),
        (samples.bzimage(gzip.compress(KERNEL[:-9])), "it is cut short"),
        (samples.bzimage(gzip.compress(KERNEL)[:-2000]), "its gzip data ends early"),
        (samples.bzimage(lzma.compress(KERNEL)[:-2000]), "its xz data ends early"),
        (samples.bzimage(lz4_legacy(KERNEL)[:-2000]), "its lz4 data ends early"),
    ],
)
def test_a_damaged_image_is_named_and_nothing_written(
    tmp_path: Path, image: bytes, problem: str
) -> None:
    assert problem in complaint(tmp_path, image)


@pytest.mark.parametrize("packer", PACKERS)
def test_output_is_bounded_whatever_the_input_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packer: str
) -> None:
    monkeypatch.setattr(bzimage, "LIMIT", 2 * 1024**2)

    bomb = PACKERS[packer](bytes(6 * 1024**2))

    assert "it unpacks to more than 2 MiB" in complaint(tmp_path, samples.bzimage(bomb))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packer=st.sampled_from(sorted(PACKERS)),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.floats(0.5, 1),
)
def test_damage_is_either_harmless_or_one_clear_error(
    tmp_path: Path, packer: str, damage: list[tuple[float, int]], length: float
) -> None:
    image = bytearray(samples.bzimage(PACKERS[packer](KERNEL)))
    for place, value in damage:
        image[int(place * (len(image) - 1))] = value

    error = refusal(tmp_path, bytes(image[: int(length * len(image))]))

    assert error is None or error.code is ErrorCode.IMAGE_CORRUPT
    assert error is None or "\n" not in error.message


@given(st.binary(max_size=200))
def test_any_payload_is_either_refused_or_unpacked(payload: bytes) -> None:
    for magic in (
        b"\x1f\x8b\x08\x00",
        b"\xfd7zXZ\x00",
        b"BZh9",
        b"\x28\xb5\x2f\xfd",
        b"\x02!L\x18",
    ):
        try:
            found = bzimage.payload(samples.bzimage(magic + payload))
        except ValueError:
            continue
        assert found == magic + payload
