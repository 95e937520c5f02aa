"""Block devices: device-mapper devices by name are banger's when the kernel says so.

That is, when their uuid is one that banger gave, which only root can, and when what they are made
of is loop devices with banger's mark. All of it is read from sysfs.
"""

from __future__ import annotations

import os
from pathlib import Path

from banger.privileged import loop
from banger.privileged.faults import Fault, FaultCode, refused
from banger.privileged.gates.names import SNAPSHOT_PREFIX, snapshot_name

BASE_SUFFIX = ".base"
"""Ends the name of what is below a snapshot that is larger than its image, and no snapshot's."""

_UUID_PREFIX = "BANGER-"
_BLOCK = Path("/sys/block")


def uuid_of(name: str) -> str:
    """The uuid that banger gives to the device `name`."""
    return _UUID_PREFIX + name


def find(name: str) -> Path | None:
    """The sysfs directory of the device-mapper device `name`, whoever made it."""
    for entry in _BLOCK.glob("dm-*"):
        if _read(entry / "dm/name") == name:
            return entry

    return None


def require_snapshot(name: str) -> Path:
    """The sysfs directory of banger's device `name`.

    Raises Fault: not_found, or refused when it is not banger's.
    """
    entry = find(snapshot_name(name))
    if entry is None:
        raise Fault(FaultCode.NOT_FOUND, f"there is no device {name}")

    require_ours(entry, name)
    return entry


def require_ours(entry: Path, name: str) -> None:
    """Raise unless the device at `entry` and all below it are banger's."""
    if _read(entry / "dm/uuid") != uuid_of(name):
        raise refused(f"{name} is not a device that banger made")

    for part in (entry / "slaves").iterdir():
        if part.name.startswith("dm-"):
            require_ours(_BLOCK / part.name, name + BASE_SUFFIX)
        elif not loop.marked(part.name):
            raise refused(f"{name} has {part.name} below it, which is not banger's")


def number(entry: Path) -> int:
    """The device number of the device at `entry`, as in st_rdev."""
    major, minor = _read(entry / "dev").split(":")
    return os.makedev(int(major), int(minor))


def snapshots() -> tuple[str, ...]:
    """Names of all snapshots with banger's uuid, also of those of which only the base is left."""
    marked = (_read(e / "dm/name") for e in _BLOCK.glob("dm-*") if _marked(e))
    found = {name.removesuffix(BASE_SUFFIX) for name in marked}
    return tuple(sorted(name for name in found if name.startswith(SNAPSHOT_PREFIX)))


def _marked(entry: Path) -> bool:
    return _read(entry / "dm/uuid").startswith(_UUID_PREFIX)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        # A device may go while it is looked at.
        return ""
