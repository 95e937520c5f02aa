"""Jails: a VMM's root directory, with a place for everything that it may see.

Its directories are root's, below directories that are root's; the owner's files are mounted in
(`jailer`) rather than linked or copied, so they may lie on any file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

from banger.privileged.devicemapper import make_node
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import binaries, devices, names, paths, processes
from banger.privileged.ops import DEVICES, FILES, Launch, RemoveJail
from banger.privileged.site import Site


def remove_jail(site: Site, request: RemoveJail) -> None:
    """See RemoveJail."""
    jail = names.jail_id(request.jail)
    if not os.path.lexists(_home(site, jail)):
        return

    # In the order in which a VMM comes to be, so that none is missed that is on its way.
    with binaries.open_trusted_directory(_all(site)) as all_jails:
        os.close(_locked(jail, all_jails))

    if processes.starting(site, jail):
        raise Fault(FaultCode.BUSY, f"the jailer of jail {jail} is at work")

    if (inhabitant := processes.find(site, jail)) is not None:
        raise Fault(FaultCode.BUSY, f"process {inhabitant.pid} lives in jail {jail}")

    remove(site, jail)


def jails(site: Site) -> tuple[str, ...]:
    """Ids of all jails that have a directory."""
    with contextlib.suppress(FileNotFoundError):
        return tuple(sorted(os.listdir(_all(site))))  # noqa: PTH208

    return ()


def prepare(
    site: Site, request: Launch, undo: contextlib.ExitStack, held: contextlib.ExitStack
) -> None:
    """Make the directories of a jail that has never been, and places for what is mounted there.

    `undo` is told how to take it back; `held` keeps the jail from being removed by others until it
    is closed, and as long as a child that was forked meanwhile has not become another program.
    Raises Fault: busy when the id has been used.
    """
    owner = (site.owner_uid, site.owner_gid)
    with contextlib.ExitStack() as open_until:
        base = open_until.enter_context(binaries.open_trusted_directory(site.jails))
        all_jails = _directory(processes.PROGRAM, base, open_until, exist_ok=True)
        try:
            home = _directory(request.jail, all_jails, open_until)
        except FileExistsError:
            raise Fault(FaultCode.BUSY, f"jail {request.jail} has been used before") from None
        held.callback(os.close, _locked(request.jail, all_jails))
        undo.callback(remove, site, request.jail)
        root = _directory("root", home, open_until)
        _directory("run", root, open_until)
        files = _directory(FILES, root, open_until, mode=0o755)
        for file in request.files:
            _place(site, file.path, file.name, files)

        nodes = _directory(DEVICES, root, open_until, mode=0o755)
        for device in request.devices:
            number = devices.number(devices.require_snapshot(device.snapshot))
            make_node(device.name, nodes, number, owner)


def remove(site: Site, jail: str) -> None:
    """Remove a jail's directory, whoever lives there.

    No symlink in it is followed, nothing that is mounted in it is entered.
    """
    home = _home(site, jail)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    # proc_pid_mountinfo(5): the fifth field is the mount point, with spaces as \040.
    if any(line.split()[4].startswith(f"{home}/") for line in mounts):
        raise Fault(FaultCode.BUSY, f"something is mounted in jail {jail}")

    with binaries.open_trusted_directory(_all(site)) as directory:
        shutil.rmtree(jail, dir_fd=directory)


def _directory(
    name: str,
    parent: int,
    until: contextlib.ExitStack,
    *,
    mode: int = 0o700,
    exist_ok: bool = False,
) -> int:
    """Make a directory in one that is root's alone; a descriptor to work from, open `until`."""
    try:
        os.mkdir(name, dir_fd=parent)
        os.chmod(name, mode, dir_fd=parent)
    except FileExistsError:
        if not exist_ok:
            raise

    descriptor = os.open(name, os.O_DIRECTORY | paths.PIN, dir_fd=parent)
    until.callback(os.close, descriptor)
    return descriptor


def _place(site: Site, path: str, name: str, directory: int) -> None:
    """Something of the right kind to mount on: a directory on a directory, else a file."""
    with paths.pinned(path, site.roots, site.owner_uid) as pin:
        if stat.S_ISDIR(os.fstat(pin).st_mode):
            os.mkdir(name, 0o700, dir_fd=directory)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o600, dir_fd=directory))


def _locked(jail: str, all_jails: int) -> int:
    """A descriptor of the jail's directory with a lock on it (flock(2)), which children share."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(jail, flags, dir_fd=all_jails)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Fault(FaultCode.BUSY, f"jail {jail} is being made") from None
    return descriptor


def _all(site: Site) -> str:
    return f"{site.jails}/{processes.PROGRAM}"


def _home(site: Site, jail: str) -> str:
    return f"{_all(site)}/{jail}"
