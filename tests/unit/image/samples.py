"""A kernel small enough to read: an ELF file, and bzImages that hold it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from banger.host.paths import Paths


def paths_below(root: Path) -> Paths:
    return Paths(root / "config", root / "state", root / "cache", root / "run")


def elf(body: bytes = b"kernel" * 1000, machine: int = 62) -> bytes:
    """A 64-bit ELF file with one PT_LOAD segment, `body` (elf(5))."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, machine, 1, 0x1000000, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 0, 0, len(body), len(body), 4096)
    return header + segment + body


def bzimage(payload: bytes, *, version: int = 0x20F, setup_sectors: int = 4) -> bytes:
    """A bzImage that holds `payload`, with a header as in Documentation/arch/x86/boot.rst."""
    offset = 0x40
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, offset, len(payload))
    return bytes(setup) + bytes(offset) + payload + b"the rest"


KERNEL = elf()
PACKED = gzip.compress(KERNEL)
