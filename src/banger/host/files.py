"""Files: written whole or not at all, removed for good, and a full disk said in plain words."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError

MAKE_ROOM = "make room: banger vm prune, banger image delete NAME, banger gc"
"""The hint for whoever has too little of it."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full(while_doing: str) -> PermanentError:
    """The error for a write that found no room (or no quota) left."""
    return PermanentError(
        ErrorCode.INSUFFICIENT_DISK,
        f"no space left on the disk while {while_doing}",
        hint=MAKE_ROOM,
    )


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn a full disk or quota met inside into PermanentError(insufficient_disk)."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(f"writing {path}") from error
        raise


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Make `path` hold `data`, on disk before this returns; after a crash it is the old or the new.

    Not `durable`, it may be anything after a crash of the machine. Raises
    PermanentError(insufficient_disk), and then the old content is still there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with room_for(path), undo_unless_done(part):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
        if durable:
            publish(part, path)
        else:
            part.replace(path)


@contextlib.contextmanager
def undo_unless_done(part: Path) -> Iterator[None]:
    """Remove the unfinished file `part` when the block fails or is cancelled."""
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish(part: Path, path: Path) -> None:
    """Rename the finished file `part` to `path`, both its content and its name made durable."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make durable what is in the file `path`, or which names are in the directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Make durable the files in `directory`, which has no directories in it, and its own name."""
    for path in directory.iterdir():
        sync(path)

    sync(directory)
    sync(directory.parent)


def allocated_bytes(path: Path) -> int:
    """Bytes on disk that `path` and all below it take; 0 for what does not exist (any more)."""
    try:
        info = path.lstat()
        entries = list(path.iterdir()) if stat.S_ISDIR(info.st_mode) else []
    except FileNotFoundError:
        return 0
    # stat(2): st_blocks counts units of 512 bytes whatever the file system's block size is.
    return info.st_blocks * 512 + sum(allocated_bytes(entry) for entry in entries)


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it; no symlink is followed, and what is gone already is fine.

    Directories that forbid it are made writable first. Needs no free space. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if not path.is_symlink() and path.is_dir():
            _remove_directory(path)
        else:
            path.unlink()


def _remove_directory(directory: Path) -> None:
    directory.chmod(0o700)
    for entry in list(directory.iterdir()):
        remove_tree(entry)

    directory.rmdir()
