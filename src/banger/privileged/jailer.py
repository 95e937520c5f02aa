"""Starting the jailer: in namespaces of its own, with the owner's files mounted into the jail.

The mount namespace is this VMM's alone: when it ends its mounts are gone with it, and no crash
leaves one behind. The pid namespace keeps a VMM, which runs as the owner, from signalling anything
else of the owner's.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import stat
from pathlib import Path
from typing import NoReturn

from banger.privileged.faults import Fault, FaultCode, refused
from banger.privileged.gates import paths, processes
from banger.privileged.ops import API_SOCKET, FILES, Launch, Process
from banger.privileged.site import Site

# linux/sched.h and linux/mount.h; os.unshare came with Python 3.12.
_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_REC, _PRIVATE = 16384, 1 << 18

_DEATH_SECONDS = 15.0
_LONGEST_ERROR = 300

_libc = ctypes.CDLL(None, use_errno=True)


def command(site: Site, request: Launch, largest: int) -> list[str]:
    """The jailer's command line (docs/jailer.md of Firecracker); mounts are made before it runs.

    `largest` is how many bytes the largest file has that is mounted for it to write to.
    """
    bounds: tuple[str, ...] = ()
    if request.limits is not None:
        # What it writes to besides: its guest's memory, when that is saved.
        bounds = ("--resource-limit", f"fsize={max(largest, request.limits.memory)}")

    return [
        request.jailer,
        *("--id", request.jail),
        *("--exec-file", request.firecracker),
        *("--uid", str(site.owner_uid)),
        *("--gid", str(site.owner_gid)),
        *("--chroot-base-dir", site.jails),
        *("--cgroup-version", "2"),
        *bounds,
        "--",
        *("--api-sock", f"/run/{API_SOCKET}"),
    ]


def start(site: Site, request: Launch, undo: contextlib.ExitStack) -> Process | None:
    """Start the jailer in the jail that `jail.prepare` made; what it becomes keeps its pid.

    `undo` is told how to take it back. None when it has ended already. Raises Fault.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reader, "rb") as report:
        middle = os.fork()
        if middle == 0:
            _enter(site, request, writer)

        os.close(writer)
        # Ends when the jailer runs, or nobody is left who could start it.
        told = [json.loads(line) for line in report.read().splitlines()]

    os.waitpid(middle, 0)
    started = [word for word in told if isinstance(word, int)]
    child = processes.process(started[0]) if started else None
    if child is not None:
        undo.callback(_kill, child)

    for word in told:
        if isinstance(word, dict):
            raise Fault(FaultCode(word["code"]), word["message"])

    return child


def _kill(child: Process) -> None:
    """End a VMM that is being taken back, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(child.pid)
        try:
            if processes.process(child.pid) == child:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], _DEATH_SECONDS)
        finally:
            os.close(descriptor)


def _enter(site: Site, request: Launch, report: int) -> NoReturn:
    """In a child: build the view of the jail, let go of everything, become the jailer."""
    try:
        os.setsid()
        os.umask(0o077)
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
        _mount("none", "/", _REC | _PRIVATE)
        largest = _furnish(site, request)
        with paths.opened(
            request.console, site.roots, site.owner_uid, os.O_WRONLY | os.O_APPEND
        ) as console:
            pid = os.fork()
            if pid == 0:
                _become(command(site, request, largest), console)

        os.write(report, f"{pid}\n".encode())
    except BaseException as error:  # nothing may go on as a second helper
        os.write(report, _described(error))

    os._exit(0)


def _described(error: BaseException) -> bytes:
    code = error.code if isinstance(error, Fault) else FaultCode.FAILED
    return json.dumps({"code": code, "message": str(error)[:_LONGEST_ERROR]}).encode() + b"\n"


def _become(argv: list[str], console: int) -> NoReturn:
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(console, 1)
    os.dup2(console, 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)

    os.execve(argv[0], argv, {})  # noqa: S606 - there is no shell to want


def _furnish(site: Site, request: Launch) -> int:
    """Mount everything; the size of the largest file that may be written to."""
    root = processes.jail_root(site, request.jail)
    _bind(site, request.run_dir, f"{root}/run", readonly=False)
    for file in request.files:
        _bind(site, file.path, f"{root}/{FILES}/{file.name}", readonly=file.readonly)

    written = (Path(root, FILES, file.name) for file in request.files if not file.readonly)
    return max((path.stat().st_size for path in written), default=0)


def _bind(site: Site, path: str, target: str, *, readonly: bool) -> None:
    with paths.pinned(path, site.roots, site.owner_uid) as pin:
        mode = os.fstat(pin).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise refused(f"{path} is neither a file nor a directory")

        _mount(f"/proc/self/fd/{pin}", target, _BIND)

    flags = _NOSUID | _NODEV | _NOEXEC | (_RDONLY if readonly else 0)
    _mount("none", target, _REMOUNT | _BIND | flags)


def _mount(source: str, target: str, flags: int) -> None:
    _call("mount", source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
