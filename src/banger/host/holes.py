"""Holes in files where there are only zeros."""

from __future__ import annotations

import ctypes
import errno
import os

# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)

_libc = ctypes.CDLL(None, use_errno=True)


def dig(descriptor: int) -> None:
    """Give back what blocks of zeros take on the disk; nothing where no holes can be made.

    Reads the whole file: run it in a thread. Raises OSError.
    """
    size = os.fstat(descriptor).st_size
    start = place = 0
    while place < size:
        block = os.pread(descriptor, _BLOCK, place)
        if block != _ZEROS[: len(block)]:
            _punch(descriptor, start, place)
            start = place + len(block)

        place += len(block) or size

    _punch(descriptor, start, size)


def _punch(descriptor: int, start: int, end: int) -> None:
    if start >= end:
        return

    offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
    if _libc.fallocate64(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0:
        return

    number = ctypes.get_errno()
    if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
