"""The machine itself: processor, directories, memory, disk space."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from banger.api.errors import BangerError
from banger.api.models import Check
from banger.api.sizes import GIB, MIB, format_size
from banger.daemon.doctor.findings import failed, passed, warned
from banger.host.config import load_config, resolve_defaults
from banger.host.files import MAKE_ROOM
from banger.host.paths import HostPath, Paths, privacy_problem
from banger.host.resources import check_memory, free_bytes, read_host

_PYTHON = (3, 11)

# An image takes 0.6 GiB, its build as much again; a VM begins with a few MiB.
_DISK_LOW, _DISK_TOO_LOW = 4 * GIB, 512 * MIB


_HOST_PATHS = {
    HostPath.EMBEDDED: "VMs are processes of this user, without privileges",
    HostPath.SYSTEM: "VMs are Firecracker's, jailed by a root helper",
}


async def platform(host_path: HostPath) -> Check:
    """Linux on x86_64, and a Python that is new enough."""
    system = os.uname()
    python = ".".join(str(part) for part in sys.version_info[:3])
    details = (f"host path: {host_path} ({_HOST_PATHS[host_path]})",)
    summary = f"{system.sysname} {system.release} on {system.machine}, Python {python}"
    if (system.sysname, system.machine) != ("Linux", "x86_64"):
        return failed("host", summary, "run banger on Linux on x86_64", *details)

    if sys.version_info < _PYTHON:
        return failed("host", summary, "run banger with Python 3.11 or newer", *details)

    return passed("host", summary, *details)


async def directories(paths: Paths, host_path: HostPath) -> Check:
    """Keys, disks and sockets are where nobody else gets at them."""
    wanted = {paths.state: 0o077, paths.cache: 0o077, paths.run: 0o077}
    if host_path is HostPath.EMBEDDED:
        # Others may read it, but what it names is run. An installed host's is root's.
        wanted[paths.config] = 0o022

    problems = await asyncio.to_thread(_problems, wanted)
    if problems:
        fix = f"chmod 700 {' '.join(map(str, problems))} (and chown to yourself)"
        found = (f"{directory} {problem}" for directory, problem in problems.items())
        return failed("directories", "others could get at VMs and keys", fix, *found)

    details = (str(directory) for directory in wanted)
    return passed("directories", "banger's directories are yours alone", *details)


async def memory(config_file: Path) -> Check:
    """A VM of default size can be started now."""
    host = read_host()
    figures = (
        f"{format_size(host.memory_available)} of {format_size(host.memory)} memory available, "
        f"{host.cpus} CPUs"
    )
    wanted = resolve_defaults(load_config(config_file), host).memory
    try:
        check_memory(wanted, host=host)
    except BangerError as error:
        return warned("memory", f"too little for a VM of default size: {figures}", error.hint)
    return passed("memory", figures)


async def disk_space(state: Path) -> Check:
    """There is room for an image and for VMs."""
    free = await asyncio.to_thread(free_bytes, state)
    summary = f"{format_size(free)} free for {state}"
    if free < _DISK_TOO_LOW:
        return failed("disk space", summary, MAKE_ROOM)

    return (
        warned("disk space", summary, MAKE_ROOM)
        if free < _DISK_LOW
        else passed("disk space", summary)
    )


def _problems(forbidden: Mapping[Path, int]) -> dict[Path, str]:
    present = {path: modes for path, modes in forbidden.items() if os.path.lexists(path)}
    found = {path: privacy_problem(path, modes) for path, modes in present.items()}
    return {path: problem for path, problem in found.items() if problem}
