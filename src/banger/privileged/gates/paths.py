"""Files by path: each component is opened from the one before it, and no symlink is followed.

The result is an O_PATH descriptor (open(2)): it pins the file, runs none of its drivers, cannot
block, and what is done afterwards is done to it through /proc/self/fd, never through the path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from banger.privileged.faults import Fault, FaultCode, refused

PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def components(path: str) -> list[str]:
    """The names in an absolute path that is written in the one plain way there is."""
    parts = path.split("/")[1:]
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise refused(f"{path[:200]!r} is not a plain absolute path")

    return parts


@contextlib.contextmanager
def pinned(path: str, roots: Sequence[str], owner: int) -> Iterator[int]:
    """An O_PATH descriptor of what lies at `path`, below one of `roots`, and belongs to `owner`.

    The owner is looked at because a hard link puts anybody's file below a root.
    """
    parts = components(path)
    if not any(_inside(parts, components(root)) for root in roots):
        raise refused(f"{path[:200]!r} is not below a directory of banger's")

    descriptor = walk(parts)
    try:
        if os.fstat(descriptor).st_uid != owner:
            raise refused(f"{path[:200]!r} does not belong to the owner")

        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: str, roots: Sequence[str], owner: int, flags: int) -> Iterator[int]:
    """The owner's regular file at `path`, opened with `flags`."""
    with pinned(path, roots, owner) as pin:
        if not stat.S_ISREG(os.fstat(pin).st_mode):
            raise refused(f"{path[:200]!r} is not a regular file")

        # The same inode, whatever is at `path` by now.
        descriptor = os.open(f"/proc/self/fd/{pin}", flags | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def walk(parts: Sequence[str]) -> int:
    """An O_PATH descriptor of what is reached from / through directories alone."""
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            there = _step(here, part, 0 if last else os.O_DIRECTORY)
            os.close(here)
            here = there

        if stat.S_ISLNK(os.fstat(here).st_mode):
            raise refused(f"{parts[-1][:80]!r} is a symlink")
    except BaseException:
        os.close(here)
        raise
    return here


def _step(here: int, part: str, flags: int) -> int:
    try:
        return os.open(part, PIN | flags, dir_fd=here)
    except FileNotFoundError:
        raise Fault(FaultCode.NOT_FOUND, f"there is no {part[:80]!r}") from None
    except OSError as error:
        # O_DIRECTORY says ENOTDIR for a symlink too.
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise refused(f"{part[:80]!r} is not a directory") from None

        raise


def _inside(parts: Sequence[str], root: Sequence[str]) -> bool:
    return len(parts) > len(root) and list(parts[: len(root)]) == list(root)
