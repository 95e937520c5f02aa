"""Content of files: digests that do not depend on holes, and a cheap test for "unchanged".

A digest covers the size and every block of 64 KiB that is not all zeros, with its offset. So an
8 GiB disk image costs what is in it, and a copy that has its holes elsewhere is still the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

_BLOCK = 64 * 1024
_ZEROS = bytes(_BLOCK)


class FileRecord(msgspec.Struct, frozen=True):
    """What a file was when it was last known to be right.

    `digest` is 64 hex digits; `mtime_ns` and `inode` tell cheaply that nobody touched it since.
    """

    size: int
    digest: str
    mtime_ns: int
    inode: int


def record(path: Path) -> FileRecord:
    """Read `path` and describe it. Raises OSError."""
    info = path.stat()
    return FileRecord(info.st_size, digest(path), info.st_mtime_ns, info.st_ino)


def untouched(path: Path, known: FileRecord) -> bool:
    """Whether `path` looks as it did when `known` was recorded; reads no data. Raises OSError."""
    info = path.stat()
    seen = (info.st_size, info.st_mtime_ns, info.st_ino)
    return seen == (known.size, known.mtime_ns, known.inode)


def digest(path: Path) -> str:
    """The digest of a file's content, in hex. Time goes with its data, not with its holes."""
    result = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        result.update(struct.pack("<Q", os.fstat(file.fileno()).st_size))
        for offset, block in _blocks(file.fileno()):
            result.update(struct.pack("<Q", offset))
            result.update(block)

    return result.hexdigest()


def _blocks(descriptor: int) -> Iterator[tuple[int, bytes]]:
    for start, end in _extents(descriptor):
        for offset in range(start, end, _BLOCK):
            block = os.pread(descriptor, _BLOCK, offset)
            if block != _ZEROS[: len(block)]:
                yield offset, block


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """The data of a sparse file as ranges that begin on block boundaries and do not overlap."""
    end = 0
    while True:
        try:
            data = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            # lseek(2): no data after this offset.
            if error.errno == errno.ENXIO:
                return
            raise
        start = max(end, data // _BLOCK * _BLOCK)
        end = -(-os.lseek(descriptor, data, os.SEEK_HOLE) // _BLOCK) * _BLOCK
        yield start, end
