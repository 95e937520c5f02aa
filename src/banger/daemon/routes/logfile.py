"""A growing text file as a stream of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

# How long what was printed may wait to be seen.
POLL_SECONDS = 0.25
_BLOCK = 64 * 1024


async def read_log(
    path: Path, *, tail: int | None = None, follow: bool = False
) -> AsyncIterator[bytes]:
    """What is in `path`, or its last `tail` lines; with `follow`, also what is appended later.

    A file that is truncated or replaced is read from its start, one that does not exist yet is
    waited for. Following ends when the file's directory is gone.
    """
    last = _look(path)
    position = 0 if tail is None else _tail(path, tail, last.size)
    while True:
        while piece := _read(path, position, min(_BLOCK, last.size - position)):
            position += len(piece)
            yield piece

        if not follow or not path.parent.exists():
            return

        await asyncio.sleep(POLL_SECONDS)
        now = _look(path)
        if now.inode != last.inode or now.size < position:
            position = 0

        last = now


class _Look(NamedTuple):
    """What the file was when it was looked at; a missing one is as an empty one."""

    inode: int
    size: int


def _look(path: Path) -> _Look:
    try:
        info = path.stat()
    except FileNotFoundError:
        return _Look(0, 0)

    return _Look(info.st_ino, info.st_size)


def _read(path: Path, position: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(length)
    except FileNotFoundError:
        return b""


def _tail(path: Path, lines: int, size: int) -> int:
    """Where the last `lines` lines of the first `size` bytes begin."""
    if lines == 0 or size == 0:
        return size

    # The end of the last line begins no other.
    wanted = lines + (_read(path, size - 1, 1) == b"\n")
    start = size
    while start > 0:
        block = min(_BLOCK, start)
        start -= block
        data = _read(path, start, block)
        end = len(data)
        while (end := data.rfind(b"\n", 0, end)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + end + 1

    return 0
