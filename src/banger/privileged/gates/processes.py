"""Processes: the VMM of a jail is what runs as the owner with the jail as its root directory.

A pid is reused, and a command line or a program file is the VMM's own to change; its root directory
is the kernel's word, and only the jailer puts a process there. Pid and start time say which one is
meant, and a pidfd holds it while it is looked at.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from banger.privileged.faults import refused
from banger.privileged.ops import Process
from banger.privileged.site import Site

PROGRAM = "firecracker"
_PROC = Path("/proc")


def find(site: Site, jail: str) -> Process | None:
    """The live VMM in `jail`."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and is_vmm(site, jail, int(entry.name)):
            return process(int(entry.name))

    return None


def send(site: Site, jail: str, target: Process, number: signal.Signals) -> bool:
    """Signal exactly `target`; False when it is gone.

    Raises Fault(refused) for a process that is not the VMM of `jail`.
    """
    try:
        descriptor = os.pidfd_open(target.pid)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except OSError as error:
        # EINVAL: pids that no process can have, and threads that are not a process's first.
        if error.errno == errno.EINVAL:
            return False

        raise
    try:
        if process(target.pid) != target:
            return False

        if not is_vmm(site, jail, target.pid):
            raise refused(f"process {target.pid} is not the VMM of jail {jail}")

        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_vmm(site: Site, jail: str, pid: int) -> bool:
    """Whether process `pid` is the VMM of `jail`."""
    try:
        root = _inode(Path(jail_root(site, jail)))
        if _uids(pid) != {site.owner_uid}:
            return False

        with _able_to_look(site, pid):
            return _inode(_PROC / str(pid) / "root") == root
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # A zombie has no root directory any more; it may also have become one just now.
        return False


def starting(site: Site, jail: str) -> bool:
    """Whether the jailer is still at work for `jail`: root's, and with a command line of ours."""
    words = f"\0--id\0{jail}\0".encode(), f"\0--chroot-base-dir\0{site.jails}\0".encode()
    for entry in _PROC.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdecimal() and 0 in _uids(int(entry.name)):
                line = (entry / "cmdline").read_bytes()
                if all(word in line for word in words):
                    return True

    return False


def process(pid: int) -> Process | None:
    """The process that has `pid` now; None when there is none, or only a zombie."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name is in parentheses and may hold any character, parentheses too.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else Process(pid=pid, start_time=int(fields[19]))


def jail_root(site: Site, jail: str) -> str:
    """Where the jailer puts the root directory of `jail`."""
    return f"{site.jails}/{PROGRAM}/{jail}/root"


def _uids(pid: int) -> set[int]:
    status = (_PROC / str(pid) / "status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("Uid:"))
    return {int(word) for word in line.split()[1:]}


def _inode(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


@contextlib.contextmanager
def _able_to_look(site: Site, pid: int) -> Iterator[None]:
    """Be the owner for a moment if that is what it takes to follow links of /proc/`pid`.

    proc(5) wants CAP_SYS_PTRACE for another user's process, which the helper's unit leaves out.
    The jail's own directory is looked at before, as root.
    """
    if os.access(_PROC / str(pid) / "root", os.F_OK):
        yield
        return

    uid, gid = os.geteuid(), os.getegid()
    os.setegid(site.owner_gid)
    os.seteuid(site.owner_uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
