"""The disk at /root: an ext4 of the VM's own, begun as a raw copy of the image's work seed."""

from __future__ import annotations

from pathlib import Path

from banger.api.errors import CallerError, ErrorCode
from banger.api.sizes import format_size
from banger.host.files import publish, undo_unless_done
from banger.host.runner import run
from banger.host.threads import in_thread
from banger.storage import ext4
from banger.storage.files import copy_sparse
from banger.storage.layers import disk_format, virtual_size

# The largest block size ext4 has here, and a multiple of the sectors QEMU insists on.
_GRAIN = 4096

# Copying a large, full disk takes minutes.
_TIMEOUT = 3600.0


async def create_work_disk(seed: Path, disk: Path, size: int) -> None:
    """Make `disk`: the content of `seed` on a file system `size` bytes large (up to 4 KiB more).

    On error or cancellation nothing is left. Raises CallerError(disk_too_small) below what the
    seed's content needs, PermanentError (insufficient_disk, state_corrupt).
    """
    await _copy_resized(seed, disk, size)


async def grow_work_disk(disk: Path, target: Path, size: int) -> None:
    """Make `target`, a raw file: the content of `disk`, its file system grown to `size` bytes.

    `size` is rounded up to 4 KiB. `disk` may be a chain of layers, which snapshots may share: it is
    left alone, and may not be in use. On error or cancellation nothing of `target` is left. Raises
    CallerError(disk_too_small) rather than shrink, PermanentError (insufficient_disk,
    state_corrupt).
    """
    current = virtual_size(disk)
    if size < current:
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"a work disk cannot shrink from {format_size(current)} to {format_size(size)}",
            hint="make a new VM with a smaller --disk-size and copy the files over",
        )
    await _copy_resized(disk, target, size)


async def _copy_resized(source: Path, disk: Path, size: int) -> None:
    size = -(-size // _GRAIN) * _GRAIN
    part = disk.with_name(f"{disk.name}.part")
    # Left by a crash; whoever holds the VM is the only one to write here.
    part.unlink(missing_ok=True)
    with undo_unless_done(part):
        await _copy_raw(source, part)
        part.chmod(0o600)
        if size != ext4.filesystem_size(part):
            await ext4.resize(part, size)
        await in_thread(publish, part, disk)


async def _copy_raw(source: Path, copy: Path) -> None:
    if disk_format(source) == "raw":
        await in_thread(copy_sparse, source, copy)
        return

    # What qemu-img finds zero becomes a hole.
    formats = ("-f", "qcow2", "-O", "raw")
    await run(["qemu-img", "convert", "-q", *formats, source, copy], timeout=_TIMEOUT)
