"""The disk at /root: a raw ext4 of the VM's own, begun as a copy of the image's work seed."""

from __future__ import annotations

from pathlib import Path

from banger.api.errors import CallerError, ErrorCode
from banger.api.sizes import format_size
from banger.host.files import publish, undo_unless_done
from banger.host.threads import in_thread
from banger.storage import ext4
from banger.storage.files import copy_sparse

# The largest block size ext4 has here, and a multiple of the sectors QEMU insists on.
_GRAIN = 4096


async def create_work_disk(seed: Path, disk: Path, size: int) -> None:
    """Make `disk`: the content of `seed` on a file system `size` bytes large (up to 4 KiB more).

    On error or cancellation nothing is left. Raises CallerError(disk_too_small) below what the
    seed's content needs, PermanentError (insufficient_disk, state_corrupt).
    """
    await _copy_resized(seed, disk, size)


async def grow_work_disk(disk: Path, size: int) -> None:
    """Grow `disk` and the file system on it to `size` bytes (up to 4 KiB more). No VM may use it.

    Works on a copy that takes the disk's place when finished, because an interrupted resize2fs
    leaves a file system that needs repair by hand: whatever happens, `disk` is the old or the new
    one. Needs room for the copy unless the file system shares extents. Raises CallerError
    (disk_too_small) rather than shrink, PermanentError (insufficient_disk, state_corrupt).
    """
    current = ext4.filesystem_size(disk)
    if size < current:
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"a work disk cannot shrink from {format_size(current)} to {format_size(size)}",
            hint="make a new VM with a smaller --disk-size and copy the files over",
        )
    await _copy_resized(disk, disk, size)


async def _copy_resized(source: Path, disk: Path, size: int) -> None:
    size = -(-size // _GRAIN) * _GRAIN
    part = disk.with_name(f"{disk.name}.part")
    # Left by a crash; whoever holds the VM is the only one to write here.
    part.unlink(missing_ok=True)
    with undo_unless_done(part):
        await in_thread(copy_sparse, source, part)
        if size != ext4.filesystem_size(part):
            await ext4.resize(part, size)
        await in_thread(publish, part, disk)
