"""Copies that keep holes: shared extents where the file system can, else only what holds data."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from banger.host.files import room_for, undo_unless_done

# linux/fs.h: _IOW(0x94, 9, int). Python's fcntl names it from 3.12 on.
_FICLONE = 0x40049409
_CANNOT_SHARE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_CANNOT_COPY_IN_KERNEL = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_CHUNK = 1 << 20


def copy_sparse(source: Path, copy: Path) -> None:
    """Make `copy`, a new private file with the content of `source` and holes where it has holes.

    On error nothing is left. Raises PermanentError(insufficient_disk), OSError. Blocks: run it in a
    thread.
    """
    with room_for(copy), source.open("rb") as reader:
        descriptor = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with undo_unless_done(copy), os.fdopen(descriptor, "r+b") as writer:
            if not _share(reader.fileno(), writer.fileno()):
                _copy_data(reader.fileno(), writer.fileno())


def copy_whole(source: Path, copy: Path) -> None:
    """As `copy_sparse`, but `copy` is there whole or not at all, also when the process is killed.

    It is not durable: a power cut may leave anything. What an earlier attempt left is replaced.
    """
    part = copy.with_name(f"{copy.name}.part")
    part.unlink(missing_ok=True)
    copy_sparse(source, part)
    with undo_unless_done(part):
        part.replace(copy)


def _share(source: int, copy: int) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def _copy_data(source: int, copy: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(copy, size)
    for start, end in _data_extents(source, size):
        _copy_extent(source, copy, start, end)


def _data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """What lseek(2) says is not a hole; everything, on file systems that cannot tell."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def _copy_extent(source: int, copy: int, start: int, end: int) -> None:
    while start < end:
        copied = _copy_some(source, copy, start, min(end - start, _CHUNK))
        if copied == 0:
            # Truncated under us: the rest is a hole, as it is in the source.
            return
        start += copied


def _copy_some(source: int, copy: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, copy, count, offset, offset)
    except OSError as error:
        if error.errno not in _CANNOT_COPY_IN_KERNEL:
            raise
    return os.pwrite(copy, os.pread(source, count, offset), offset)
