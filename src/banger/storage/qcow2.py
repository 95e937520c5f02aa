"""Disks as chains of qcow2 overlays: made at once, small at first, whatever they lie over."""

from __future__ import annotations

from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError, TransientError
from banger.host.files import disk_full, publish, undo_unless_done
from banger.host.runner import run
from banger.host.threads import in_thread
from banger.storage.base import DiskFormat
from banger.storage.files import copy_sparse, copy_whole
from banger.storage.layers import chain, disk_format, refuse_below, virtual_size

# qemu-img(1), check: 3 means clusters that nothing refers to. Space lost, not data.
_LEAKED = 3

# Copying what many snapshots hold takes minutes on a slow disk.
_TIMEOUT = 3600.0


class Qcow2:
    """`LayeredDisks` of copy-on-write overlays. What they lie over must neither change nor move."""

    format: DiskFormat = "qcow2"

    async def create(self, base: Path, disk: Path, size: int) -> None:
        """Make the overlay `disk` over the raw file `base`; see `Disks.create`."""
        refuse_below(base, size)
        await self.overlay(base, disk, size=size)

    async def overlay(self, backing: Path, disk: Path, *, size: int | None = None) -> None:
        """Make the empty overlay `disk`; see `LayeredDisks.overlay`."""
        length = virtual_size(backing) if size is None else size
        part = _part(disk)
        with undo_unless_done(part):
            await run(_create_command(backing, part, length))
            part.chmod(0o600)
            await in_thread(publish, part, disk)

    def copy_overlay(self, empty: Path, disk: Path) -> None:
        """Copy the empty overlay `empty`; see `LayeredDisks.copy_overlay`."""
        copy_whole(empty, disk)

    async def flatten(self, top: Path, bottom: Path) -> None:
        """Rebase a copy of `top` onto `bottom` and put it in its place: `LayeredDisks.flatten`.

        Not in place: qemu-img does not make the data durable before the header that relies on it,
        and when banger is killed it goes on. The top of a chain that is too deep is small.
        """
        if chain(top).index(bottom) < 2:
            return

        # Refuses a file that a VMM has open, too: it would go on writing to the old one.
        await self.check(top)
        part = _part(top)
        part.unlink(missing_ok=True)
        with undo_unless_done(part):
            await in_thread(copy_sparse, top, part)
            await run(_rebase_command(part, bottom), timeout=_TIMEOUT)
            await in_thread(publish, part, top)

    async def check(self, disk: Path) -> None:
        """Check that the chain opens, and the metadata of its top; see `LayeredDisks.check`."""
        chain(disk)
        if disk_format(disk) == "raw":
            return

        command: list[str | Path] = ["qemu-img", "check", "-q", "-f", "qcow2", disk]
        result = await run(command, check=False, timeout=_TIMEOUT)
        if result.status in (0, _LEAKED):
            return

        if result.found_disk_full:
            raise disk_full(f"checking {disk}")

        if b'" lock' in result.stderr:
            raise TransientError(
                ErrorCode.VM_BUSY,
                f"the disk {disk} is in use by another process",
                hint="try again when that has ended",
            )
        raise PermanentError(
            ErrorCode.STATE_CORRUPT,
            f"the disk {disk} cannot be used: {result.complaint()}",
            hint="go back to a snapshot, or delete the VM; its other disk is a separate file",
        )


def _part(disk: Path) -> Path:
    return disk.with_name(f"{disk.name}.part")


def _create_command(backing: Path, disk: Path, size: int) -> list[str | Path]:
    # A relative backing file would be looked for beside the overlay; -u does not open it, which
    # QEMU's locks forbid while a VMM writes to it.
    below = ("-u", "-b", backing.absolute(), "-F", disk_format(backing))
    return ["qemu-img", "create", "-q", "-f", "qcow2", *below, disk, str(size)]


def _rebase_command(disk: Path, bottom: Path) -> list[str | Path]:
    below = ("-b", bottom, "-F", disk_format(bottom))
    return ["qemu-img", "rebase", "-q", "-f", "qcow2", *below, disk]
