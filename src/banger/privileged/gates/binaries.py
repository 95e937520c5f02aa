"""Programs and files that run as root or steer it: root alone may have put them where they are."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

from banger.privileged.faults import Fault, FaultCode, refused
from banger.privileged.gates.paths import PIN, components

DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin")
"""Where programs are looked for: a list of ours, because $PATH is the caller's."""

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextlib.contextmanager
def open_trusted(path: str) -> Iterator[int]:
    """An O_PATH descriptor of the regular file `path`, which nobody but root can write or replace.

    That is: it and every directory above belong to root, group and others may not write to any of
    them, and none is a symlink.
    """
    with _trusted(path) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise refused(f"{path} is not a regular file")

        yield descriptor


@contextlib.contextmanager
def open_trusted_directory(path: str) -> Iterator[int]:
    """The same for a directory; the descriptor can be worked from."""
    with _trusted(path) as descriptor:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise refused(f"{path} is not a directory")

        yield descriptor


def program(path: str, name: str) -> str:
    """`path`, or what DIRECTORIES have as `name` if that is empty: a trusted executable `name`.

    The file is called `name` because the jailer names directories after it.
    """
    path = path or _search(name)
    if components(path)[-1] != name:
        raise refused(f"{path} is not called {name}")

    with open_trusted(path) as descriptor:
        if not os.fstat(descriptor).st_mode & stat.S_IXUSR:
            raise refused(f"{path} is not executable")

    return path


def _search(name: str, directories: Sequence[str] = DIRECTORIES) -> str:
    for directory in directories:
        path = f"{directory}/{name}"
        if os.path.lexists(path):
            return path

    raise Fault(FaultCode.NOT_FOUND, f"{name} is not installed in {' '.join(directories)}")


@contextlib.contextmanager
def _trusted(path: str) -> Iterator[int]:
    parts = components(path)
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        _check(here, "/")
        for number, part in enumerate(parts, 1):
            there = _step(here, part, path)
            os.close(here)
            here = there
            _check(here, "/" + "/".join(parts[:number]))

        yield here
    finally:
        os.close(here)


def _step(here: int, part: str, path: str) -> int:
    try:
        return os.open(part, PIN, dir_fd=here)
    except FileNotFoundError:
        raise Fault(FaultCode.NOT_FOUND, f"there is no {path}") from None
    except NotADirectoryError:
        raise refused(f"{path} does not lead through directories") from None


def _check(descriptor: int, path: str) -> None:
    info = os.fstat(descriptor)
    if stat.S_ISLNK(info.st_mode):
        raise refused(f"{path} is a symlink")

    if info.st_uid != 0 or info.st_mode & _OTHERS_MAY_WRITE:
        raise refused(f"others than root may write to {path}")
