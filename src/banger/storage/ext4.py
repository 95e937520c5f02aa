"""ext4 in files, without mounting: e2fsck(8), resize2fs(8), and the size in the superblock."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.sizes import KIB, MIB, format_size
from banger.host.files import disk_full, room_for
from banger.host.runner import run

# Checking a large, full disk takes minutes.
_TIMEOUT = 3600.0

# Superblock layout: Linux Documentation/filesystems/ext4/super.rst.
_SUPERBLOCK = 1024
_BLOCKS_LOW, _LOG_BLOCK_SIZE, _MAGIC, _INCOMPATIBLE, _BLOCKS_HIGH = 0x4, 0x18, 0x38, 0x60, 0x150
_EXT4_MAGIC = 0xEF53
_FEATURE_64BIT = 0x80

# e2fsck(8), EXIT CODE: 1 and 2 mean that errors were corrected.
_UNCORRECTED = 4


def filesystem_size(disk: Path) -> int:
    """Bytes the file system on `disk` spans, which may be less than the file is long.

    Raises PermanentError(state_corrupt) when there is none.
    """
    with disk.open("rb") as file:
        file.seek(_SUPERBLOCK)
        block = file.read(1024)

    if len(block) < 1024 or struct.unpack_from("<H", block, _MAGIC)[0] != _EXT4_MAGIC:
        raise PermanentError(
            ErrorCode.STATE_CORRUPT,
            f"{disk} holds no ext4 file system",
            hint="it cannot be repaired: delete the VM, or put the file back from a backup",
        )
    blocks: int = struct.unpack_from("<I", block, _BLOCKS_LOW)[0]
    if struct.unpack_from("<I", block, _INCOMPATIBLE)[0] & _FEATURE_64BIT:
        blocks += struct.unpack_from("<I", block, _BLOCKS_HIGH)[0] << 32

    block_size: int = 1024 << struct.unpack_from("<I", block, _LOG_BLOCK_SIZE)[0]
    return blocks * block_size


async def check(disk: Path) -> None:
    """Check the file system on `disk`, replay its journal and repair what is safe to repair.

    Raises PermanentError: state_corrupt when a person has to decide, insufficient_disk.
    """
    result = await run(["e2fsck", "-fp", disk], check=False, timeout=_TIMEOUT)
    if result.status < _UNCORRECTED:
        return

    if result.found_disk_full:
        raise disk_full(f"checking {disk}")
    raise PermanentError(
        ErrorCode.STATE_CORRUPT,
        f"the file system on {disk} has errors that need a decision",
        hint=f"look at them with: e2fsck -f {disk}",
    )


async def resize(disk: Path, size: int) -> None:
    """Make `disk` and the file system on it `size` bytes long, a multiple of 4 KiB.

    An interruption leaves a file system that needs repair: work on a copy. Raises CallerError
    (disk_too_small) below what its content needs, PermanentError (state_corrupt,
    insufficient_disk, tool_failed).
    """
    await check(disk)
    if size < filesystem_size(disk):
        await _refuse_below_minimum(disk, size)

    with room_for(disk):
        os.truncate(disk, max(size, filesystem_size(disk)))
        await run(["resize2fs", disk, f"{size // KIB}K"], timeout=_TIMEOUT)
        os.truncate(disk, size)


async def _refuse_below_minimum(disk: Path, size: int) -> None:
    minimum = await _minimum_size(disk)
    if size < minimum:
        needed = -(-minimum // MIB) * MIB
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"a work disk of {format_size(size)} is too small: "
            f"what is on it needs at least {format_size(needed)}",
            hint=f"use --disk-size {needed // MIB}M or more",
        )


async def _minimum_size(disk: Path) -> int:
    # "Estimated minimum size of the filesystem: 18064", in blocks of the file system.
    result = await run(["resize2fs", "-P", disk], timeout=_TIMEOUT)
    with disk.open("rb") as file:
        file.seek(_SUPERBLOCK + _LOG_BLOCK_SIZE)
        block_size: int = 1024 << struct.unpack("<I", file.read(4))[0]
    return int(result.text.rsplit(":", 1)[1]) * block_size
