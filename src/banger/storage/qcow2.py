"""Root disks as qcow2 overlays over an image's raw file system: made at once, small at first."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.sizes import format_size
from banger.host.files import disk_full, publish, undo_unless_done
from banger.host.runner import run
from banger.host.threads import in_thread

# qemu-img(1), check: 3 means clusters that nothing refers to. Space lost, not data.
_LEAKED = 3


class Qcow2:
    """A `RootDisk` of copy-on-write overlays. The base must neither change nor move under them."""

    format: Literal["raw", "qcow2"] = "qcow2"

    async def create(self, base: Path, disk: Path, size: int) -> None:
        """Make the overlay `disk` over the raw file `base`; see `RootDisk.create`."""
        _refuse_below_base(base, size)
        part = disk.with_name(f"{disk.name}.part")
        with undo_unless_done(part):
            await run(_create_command(base, part, size))
            part.chmod(0o600)
            await in_thread(publish, part, disk)

    async def check(self, disk: Path) -> None:
        """Check the overlay's own metadata and that its base opens; see `RootDisk.check`."""
        result = await run(["qemu-img", "check", "-q", "-f", "qcow2", disk], check=False)
        if result.status in (0, _LEAKED):
            return

        if result.found_disk_full:
            raise disk_full(f"checking {disk}")
        raise PermanentError(
            ErrorCode.STATE_CORRUPT,
            f"the root disk cannot be used: {result.complaint()}",
            hint="its work disk is a separate file: copy that, delete the VM and create a new one",
        )


def _refuse_below_base(base: Path, size: int) -> None:
    smallest = base.stat().st_size
    if size < smallest:
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"a root disk of {format_size(size)} is too small: "
            f"the image needs {format_size(smallest)}",
            hint=f"use --root-size {format_size(smallest)} or more",
        )


def _create_command(base: Path, disk: Path, size: int) -> list[str | Path]:
    # A relative backing file would be looked for beside the overlay.
    backing = ("-b", base.absolute(), "-F", "raw")
    return ["qemu-img", "create", "-q", "-f", "qcow2", *backing, disk, str(size)]
