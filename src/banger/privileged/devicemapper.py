"""Root disks as device-mapper snapshots: a read-only image below, the VM's own writes above.

Tables are those of the kernel's admin-guide/device-mapper (snapshot, linear, zero); all lengths in
them are sectors of 512 bytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from banger.privileged import loop, mapper
from banger.privileged.faults import Fault, FaultCode, refused
from banger.privileged.gates import devices, names, paths
from banger.privileged.gates.binaries import open_trusted_directory
from banger.privileged.ops import (
    CheckResult,
    CheckSnapshot,
    CreateSnapshot,
    Device,
    FlushSnapshot,
    RemoveSnapshot,
)
from banger.privileged.run import run
from banger.privileged.site import Site

_SECTOR = 512
# Sectors of a piece that is copied up when it is first written: 4 KiB, as ext4 writes.
_CHUNK = 8
_LARGEST = 2**46

# e2fsck(8): no errors, errors corrected; anything else is not safe to go on with.
_CLEAN, _CORRECTED = 0, 1


def create_snapshot(site: Site, request: CreateSnapshot) -> Device:
    """See CreateSnapshot."""
    name = names.snapshot_name(request.name)
    if devices.find(name) is not None:
        raise Fault(FaultCode.BUSY, f"{name} exists already")

    roots, owner = site.roots, site.owner_uid
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(paths.opened(request.base, roots, owner, os.O_RDONLY))
        cow = stack.enter_context(paths.opened(request.cow, roots, owner, os.O_RDWR))
        length = _sectors(request.size, "the size")
        image = _sectors(os.fstat(base).st_size, "the image")
        if length < image:
            raise refused("the size is less than the image's")

        below = stack.enter_context(loop.attached(base, readonly=True))
        above = stack.enter_context(loop.attached(cow, readonly=False))
        undo = stack.enter_context(contextlib.ExitStack())
        if length > image:
            below = _create(name + devices.BASE_SUFFIX, extended_table(below, image, length))
            undo.callback(mapper.remove, name + devices.BASE_SUFFIX)

        place = _create(name, snapshot_table(below, above, length))
        undo.pop_all()

    major, minor = place.split(":")
    return Device(path=f"/dev/mapper/{name}", major=int(major), minor=int(minor))


def remove_snapshot(_: Site, request: RemoveSnapshot) -> None:
    """See RemoveSnapshot. A base without its snapshot, as a crash may leave it, goes too."""
    name = names.snapshot_name(request.name)
    for each in (name, name + devices.BASE_SUFFIX):
        if (entry := devices.find(each)) is not None:
            devices.require_ours(entry, each)
            mapper.remove(each)


def flush_snapshot(site: Site, request: FlushSnapshot) -> None:
    """See FlushSnapshot. A device has one page cache, whoever writes to it through which node."""
    number = devices.number(devices.require_snapshot(request.name))
    with _node(site, f".flush-{request.name}", number, (0, 0)) as pin:
        device = os.open(f"/proc/self/fd/{pin}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(device)
        finally:
            os.close(device)


def check_snapshot(site: Site, request: CheckSnapshot) -> CheckResult:
    """See CheckSnapshot. What is checked was written by a guest: root does not parse it."""
    number = devices.number(devices.require_snapshot(request.name))
    owner = (site.owner_uid, site.owner_gid)
    with _node(site, f".check-{request.name}", number, owner) as device:
        argv = ["e2fsck", "-p", "-f", f"/proc/self/fd/{device}"]
        done = run(argv, pass_fds=[device], user=owner, accept=(_CLEAN, _CORRECTED))

    return CheckResult(repaired=done.returncode == _CORRECTED)


def extended_table(device: str, image: int, length: int) -> str:
    """The image, and zeros after it."""
    return f"0 {image} linear {device} 0\n{image} {length - image} zero\n"


def snapshot_table(below: str, above: str, length: int) -> str:
    """`P`: what was written is found again after the device has been removed."""
    return f"0 {length} snapshot {below} {above} P {_CHUNK}\n"


def make_node(name: str, directory: int, number: int, owner: tuple[int, int]) -> None:
    """A node for block device `number` that `owner` may open, in a directory that is root's."""
    os.mknod(name, stat.S_IFBLK | 0o600, number, dir_fd=directory)
    os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)


def _create(name: str, table: str) -> str:
    return mapper.create(name, devices.uuid_of(name), table)


@contextlib.contextmanager
def _node(site: Site, name: str, number: int, owner: tuple[int, int]) -> Iterator[int]:
    """A descriptor (O_PATH) of a node that is gone from its directory already."""
    with open_trusted_directory(site.jails) as directory:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)

        make_node(name, directory, number, owner)
        device = os.open(name, paths.PIN, dir_fd=directory)
        os.unlink(name, dir_fd=directory)

    try:
        yield device
    finally:
        os.close(device)


def _sectors(size: int, what: str) -> int:
    if size <= 0 or size % _SECTOR or size > _LARGEST:
        raise refused(f"{what} is not a number of sectors")

    return size // _SECTOR
