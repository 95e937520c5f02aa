"""Root disks as device-mapper snapshots: here the file that one writes to, `privileged` the device.

The exception store is that of the kernel's drivers/md/dm-snap-persistent.c: chunks of 4 KiB, a
header in the first, then areas of one chunk of metadata and the 256 chunks that it describes. A
file of zeros is an empty one.
"""

from __future__ import annotations

import os
from pathlib import Path

from banger.host.files import publish, room_for, undo_unless_done
from banger.host.threads import in_thread
from banger.storage.base import DiskFormat
from banger.storage.layers import refuse_below

_CHUNK = 4096
# A metadata chunk has so many entries of 16 bytes.
_AREA = 256

DEVICE_PREFIX = "fc-rootfs-"


class Cow:
    """`Disks` of sparse files, each with room for as much as its guest can write."""

    format: DiskFormat = "cow"

    async def create(self, base: Path, disk: Path, size: int) -> None:
        """Make the empty `disk` for a snapshot of the raw file `base`; see `Disks.create`."""
        refuse_below(base, size)
        await in_thread(_make, disk, cow_length(device_size(size)))


def device_name(vm_id: str) -> str:
    """The device of a VM's root disk."""
    return f"{DEVICE_PREFIX}{vm_id}"


def device_size(size: int) -> int:
    """`size`, rounded up to what a device can have."""
    return -(-size // _CHUNK) * _CHUNK


def cow_length(size: int) -> int:
    """How long a cow file has to be so that all of a device of `size` bytes can be written."""
    chunks = size // _CHUNK
    areas = -(-chunks // _AREA)
    # The header, and the area that is begun when the last one is full.
    return (1 + chunks + areas + 1) * _CHUNK


def _make(disk: Path, length: int) -> None:
    part = disk.with_name(f"{disk.name}.part")
    part.unlink(missing_ok=True)
    with room_for(part), undo_unless_done(part):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, length)
        finally:
            os.close(descriptor)

        publish(part, disk)
