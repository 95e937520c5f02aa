"""A guest at one moment, in one file: its memory, its devices, and where the second begins."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from banger.api.errors import ErrorCode, PermanentError
from banger.host import holes
from banger.host.files import remove_tree, room_for
from banger.hypervisor.base import MemoryImage
from banger.hypervisor.firecracker import config
from banger.hypervisor.firecracker.api import Api

# For the slowest disk and the largest guest: a limit all the same.
_SECONDS = 1800.0

_MAGIC = b"bangerfc"
_FOOTER = struct.Struct("<8sQ")


async def write(api: Api, saving: Path) -> None:
    """Have a paused guest written into `saving`. On error nothing of it is left there."""
    discard(saving)
    try:
        await api.put(config.snapshot(), timeout=_SECONDS)
    except BaseException:
        discard(saving)
        raise


def discard(saving: Path) -> None:
    """Remove what was written into `saving`."""
    for path in (_memory(saving), _state(saving)):
        path.unlink(missing_ok=True)


def join(saving: Path, stream: Path) -> None:
    """Make the file `stream` of what was written into `saving`, of which nothing is left."""
    try:
        with room_for(stream):
            state = _state(saving).read_bytes()
            with _memory(saving).open("ab") as memory:
                size = memory.tell()
                memory.write(state + _FOOTER.pack(_MAGIC, size))

            shutil.move(_memory(saving), stream)
    except BaseException:
        stream.unlink(missing_ok=True)
        raise
    finally:
        discard(saving)


def convert(stream: Path, out: MemoryImage) -> None:
    """See `Hypervisor.convert`: memory is not copied, and what is zero in it becomes holes."""
    with room_for(out.directory), _whole(out.directory), stream.open("r+b") as source:
        length = os.fstat(source.fileno()).st_size
        size = _memory_size(source, length)
        out.directory.mkdir(mode=0o700)
        source.seek(size)
        out.state.write_bytes(source.read(length - size - _FOOTER.size))
        out.memory.hardlink_to(stream)
        out.memory.chmod(0o600)
        source.truncate(size)
        holes.dig(source.fileno())


def _memory_size(source: BinaryIO, length: int) -> int:
    source.seek(max(0, length - _FOOTER.size))
    footer = source.read(_FOOTER.size)
    magic, size = _FOOTER.unpack(footer) if len(footer) == _FOOTER.size else (b"", 0)
    if magic != _MAGIC or size > length - _FOOTER.size:
        raise PermanentError(
            ErrorCode.SAVE_FAILED,
            "what the VM was saved to is not whole",
            hint="save it again; if it stays so, see: banger doctor",
        )

    return int(size)


@contextmanager
def _whole(directory: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        remove_tree(directory)
        raise


def _memory(saving: Path) -> Path:
    return saving / "memory"


def _state(saving: Path) -> Path:
    return saving / "state"
