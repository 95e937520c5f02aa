"""A little disk space kept back, so that a full disk does not stop VMs from being stopped."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from banger.api.sizes import MIB

SIZE = MIB
# Left to others when the space is taken back while the daemon works.
MARGIN = 16 * MIB


class Reserve:
    """A file beside the database whose blocks are given up when a write finds the disk full.

    Ending a VM needs a few pages of write-ahead log before its disks can be freed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = path.exists() and path.stat().st_size == SIZE

    def fill(self, margin: int = MARGIN) -> None:
        """Set the space aside unless it is, or that leaves less than `margin` bytes; no error."""
        if self._held:
            return

        with contextlib.suppress(OSError):
            info = os.statvfs(self._path.parent)
            if info.f_bavail * info.f_frsize < SIZE + margin:
                return

            self._allocate()
            self._held = True

    def release(self) -> bool:
        """Give the space up; False when there was none."""
        self._held = False
        try:
            self._path.unlink()
        except OSError:
            return False

        return True

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(descriptor)
