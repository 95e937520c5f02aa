"""The contract between the daemon and a way of keeping disks: layers that share what is alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

DiskFormat = Literal["raw", "qcow2", "cow"]
"""`cow` is what a device-mapper snapshot writes to: of no use without what lies below it."""


class Disks(Protocol):
    """Root disks over an image's file system, which is never written: files of the owner's.

    Paths that are to be made do not exist, or hold what a crash left of the same attempt. On error
    nothing is left.
    """

    format: DiskFormat

    async def create(self, base: Path, disk: Path, size: int) -> None:
        """Make `disk`: the content of an image's file system `base`, `size` bytes long.

        Raises CallerError(disk_too_small) when `size` is less than the base's, PermanentError
        (state_corrupt, insufficient_disk).
        """


class LayeredDisks(Disks, Protocol):
    """Root and work disks as layers, of which only a disk's top is written.

    What lies below a top is never written again: other tops may share it.
    """

    async def overlay(self, backing: Path, disk: Path, *, size: int | None = None) -> None:
        """Make `disk`, an empty layer over `backing`, as large or `size` bytes: never less.

        Durable when this returns. A VMM may have `backing` open for writing, as long as it has
        ended or gone over to `disk` before anything else is written to either. Raises
        PermanentError (state_corrupt, insufficient_disk).
        """

    def copy_overlay(self, empty: Path, disk: Path) -> None:
        """Make `disk`, another layer like the empty one `empty`, in less than a millisecond.

        There whole or not at all when a process is killed, but not durable: a power cut may leave
        an unreadable `disk` until its guest has synchronised it. For VMs that are only coming to
        be. Raises PermanentError(insufficient_disk), OSError.
        """

    async def flatten(self, top: Path, bottom: Path) -> None:
        """Copy into `top` what lies between it and `bottom`, a member of its chain, and skip that.

        The content stays as it is. No VM may use `top`; the layers left out stay where they are.
        Whatever ends this, power cut included, `top` is the old or the new one. Raises
        PermanentError (state_corrupt, insufficient_disk), TransientError(vm_busy).
        """

    async def check(self, disk: Path) -> None:
        """Raise PermanentError(state_corrupt) unless `disk` and all below it can be attached.

        Raises TransientError(vm_busy) while a VMM has it open for writing.
        """
