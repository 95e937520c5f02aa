"""The contract between the daemon and a way of keeping root disks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol


class RootDisk(Protocol):
    """Writable root disks over a shared, read-only base. All paths are files of the owner's."""

    format: Literal["raw", "qcow2"]

    async def create(self, base: Path, disk: Path, size: int) -> None:
        """Make `disk`: the content of `base`, `size` bytes long. On error nothing is left.

        Raises CallerError(disk_too_small) when `size` is less than the base's.
        """

    async def check(self, disk: Path) -> None:
        """Raise PermanentError(state_corrupt) unless `disk` and its base can be attached."""
