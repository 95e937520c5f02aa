"""Private scratch directories whose owner is told by a lock, so that a crash leaves no doubt.

A directory is in use while somebody holds flock(2) on it; the kernel lets go when that process
ends, however it ends. Whatever is not locked was abandoned and may be removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def claim(parent: Path, prefix: str) -> Iterator[Path]:
    """A new, empty directory `<parent>/<prefix><random>`, mode 0700, ours during the block.

    Removing it is left to the caller: it may have been renamed, or need other rights.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        directory = parent / f"{prefix}{secrets.token_hex(6)}"
        directory.mkdir(mode=0o700)
        descriptor = _lock(directory)
        # Somebody who sweeps may have taken it between the two calls: then try another.
        if descriptor is not None:
            break

    try:
        yield directory
    finally:
        os.close(descriptor)


def abandoned(parent: Path, prefix: str) -> Iterator[Path]:
    """The directories of that prefix that nobody claims; each is locked until the next is asked."""
    for directory in sorted(parent.glob(f"{prefix}*")):
        descriptor = _lock(directory)
        if descriptor is not None:
            try:
                yield directory
            finally:
                os.close(descriptor)


def _lock(directory: Path) -> int | None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not directory.exists():
        os.close(descriptor)
        return None
    return descriptor
