"""The ELF kernel inside a bzImage, found by the boot protocol header and unpacked.

Format: Linux Documentation/arch/x86/boot.rst (protocol 2.08 and later) and, for what the payload
is packed with, the magic numbers in scripts/extract-vmlinux. Input is not trusted: whatever it
says, memory and output stay bounded.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from banger.api.errors import ErrorCode, PermanentError
from banger.host.files import room_for, undo_unless_done

LIMIT = 256 * 1024**2

_CHUNK = 1024**2
_MEMORY_LIMIT = 256 * 1024**2

_SETUP_SECTS = 0x1F1
_HEADER_MAGIC = 0x202
_PAYLOAD_OFFSET = 0x248
_HEADER_END = 0x250
_OLDEST_PROTOCOL = 0x208

# lz4_Block_format.md, "legacy frame": after the magic number, blocks of at most 8 MiB unpacked.
_LZ4_BLOCK = 8 * 1024**2
# scripts/Makefile.lib, size_append: the unpacked size follows what these two do not skip.
_SIZE_APPENDED = 4
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_EM_X86_64 = 62
_PT_LOAD = 1


class _DamagedError(ValueError):
    """What is wrong with the input, in words that fit after `cannot be unpacked:`."""


class _Decoder(Protocol):
    """The interface that lzma and bz2 decompressors share."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def extract_vmlinux(bzimage: Path, vmlinux: Path) -> None:
    """Write to `vmlinux` the ELF kernel that `bzimage` unpacks when it boots.

    Raises PermanentError: image_corrupt when there is none to be had, insufficient_disk; then
    `vmlinux` does not exist.
    """
    with room_for(vmlinux), undo_unless_done(vmlinux):
        try:
            _unpack(payload(bzimage.read_bytes()), vmlinux)
        except _DamagedError as problem:
            raise PermanentError(
                ErrorCode.IMAGE_CORRUPT,
                f"kernel {bzimage.name} cannot be unpacked: {problem}",
                hint="build the image again with another kernel_package in its recipe",
            ) from None


def payload(image: bytes) -> bytes:
    """The packed kernel in a bzImage. Raises ValueError that says what is wrong with `image`."""
    if len(image) < _HEADER_END or image[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise _DamagedError("it is not a bzImage")
    (version,) = struct.unpack_from("<H", image, _HEADER_MAGIC + 4)
    if version < _OLDEST_PROTOCOL:
        raise _DamagedError(
            f"its boot protocol {version >> 8}.{version & 255:02} is older than 2.08"
        )
    # boot.rst: for backwards compatibility, 0 setup sectors mean 4; one boot sector comes first.
    setup_sectors = image[_SETUP_SECTS] or 4
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = (setup_sectors + 1) * 512 + offset
    if length == 0 or start + length > len(image):
        raise _DamagedError("its header points outside the file")
    return image[start : start + length]


def _unpack(packed: bytes, vmlinux: Path) -> None:
    size = 0
    with vmlinux.open("wb") as file:
        for piece in _decoder_of(packed)(packed):
            size += len(piece)
            if size > LIMIT:
                raise _DamagedError(f"it unpacks to more than {LIMIT >> 20} MiB")
            file.write(piece)

    with vmlinux.open("rb") as file:
        _check_elf(file, size)


def _decoder_of(packed: bytes) -> Callable[[bytes], Iterator[bytes]]:
    for magic, decoder in _DECODERS:
        if packed.startswith(magic):
            return decoder
    raise _DamagedError(f"its compression is unknown (it starts with {packed[:4].hex()})")


def _gzip(packed: bytes) -> Iterator[bytes]:
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    rest = packed
    while not decoder.eof:
        try:
            piece = decoder.decompress(rest, _CHUNK)
        except zlib.error:
            raise _DamagedError("its gzip data is damaged") from None
        rest = decoder.unconsumed_tail
        if not piece and not rest and not decoder.eof:
            raise _DamagedError("its gzip data ends early")
        yield piece


def _bzip2(packed: bytes) -> Iterator[bytes]:
    return _drain(bz2.BZ2Decompressor(), packed, "bzip2")


def _xz(packed: bytes) -> Iterator[bytes]:
    return _drain(lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY_LIMIT), packed, "xz")


def _lzma(packed: bytes) -> Iterator[bytes]:
    return _drain(lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MEMORY_LIMIT), packed, "lzma")


def _drain(decoder: _Decoder, packed: bytes, name: str) -> Iterator[bytes]:
    data = packed
    while not decoder.eof:
        try:
            piece = decoder.decompress(data, _CHUNK)
        except (lzma.LZMAError, OSError, MemoryError):
            raise _DamagedError(f"its {name} data is damaged") from None
        if not piece and not data and not decoder.eof:
            raise _DamagedError(f"its {name} data ends early")
        data = b""
        yield piece


def _zstd(packed: bytes) -> Iterator[bytes]:
    # Imported late: only kernels packed this way need it, and the daemon stays small.
    import zstandard

    # The kernel packs with a window of up to 128 MiB (scripts/Makefile.lib, zstd22).
    decoder = zstandard.ZstdDecompressor(max_window_size=2**27)
    reader = decoder.stream_reader(io.BytesIO(packed[:-_SIZE_APPENDED]))
    try:
        while piece := reader.read(_CHUNK):
            yield piece
    except zstandard.ZstdError:
        raise _DamagedError("its zstd data is damaged") from None


def _lz4(packed: bytes) -> Iterator[bytes]:
    # Imported late for the same reason.
    import lz4.block

    position = 4
    end = len(packed) - _SIZE_APPENDED
    while position < end:
        (length,) = struct.unpack_from("<I", packed, position)
        block = packed[position + 4 : position + 4 + length]
        if length == 0 or position + 4 + length > end:
            raise _DamagedError("its lz4 data ends early")
        try:
            yield lz4.block.decompress(block, uncompressed_size=_LZ4_BLOCK)
        except lz4.block.LZ4BlockError:
            raise _DamagedError("its lz4 data is damaged") from None
        position += 4 + length


_DECODERS: tuple[tuple[bytes, Callable[[bytes], Iterator[bytes]]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
    (b"\xfd7zXZ\x00", _xz),
    (b"\x5d\x00\x00", _lzma),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x02\x21\x4c\x18", _lz4),
)


def _check_elf(file: io.BufferedReader, size: int) -> None:
    header = file.read(64)
    if len(header) < 64 or not header.startswith(_ELF64_LITTLE_ENDIAN):
        raise _DamagedError("what it unpacks to is not a 64-bit ELF file")
    # Elf64_Ehdr and Elf64_Phdr, elf(5).
    (machine,) = struct.unpack_from("<H", header, 18)
    (table,) = struct.unpack_from("<Q", header, 32)
    entry_size, entries = struct.unpack_from("<HH", header, 54)
    if machine != _EM_X86_64:
        raise _DamagedError("it is not for x86-64")
    if entry_size != 56 or entries == 0 or table + entries * entry_size > size:
        raise _DamagedError("its ELF program headers are damaged")
    file.seek(table)
    for kind, offset, length in _segments(file.read(entries * entry_size)):
        if kind == _PT_LOAD and offset + length > size:
            raise _DamagedError("it is cut short")


def _segments(table: bytes) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(table), 56):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", table, start)
        yield kind, offset, length
