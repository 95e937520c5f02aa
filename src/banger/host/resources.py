"""What the host has to give: processors, memory, disk space, and less of it inside a container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError
from banger.api.sizes import GIB, MIB, format_size
from banger.host.files import MAKE_ROOM

# Kept for the host itself: a VM that takes the last page gets somebody killed.
MEMORY_RESERVE = 256 * MIB

# A Debian guest with less does not get as far as its ssh server.
MEMORY_MINIMUM = 128 * MIB

# cgroup v1 has no word for "no limit": it says a number next to 2^63.
_UNLIMITED = 2**60


@dataclass(frozen=True, slots=True)
class Host:
    """Processors this process may use, bytes of memory it may have in all, and bytes free now."""

    cpus: int
    memory: int
    memory_available: int


def read_host(root: Path = Path("/")) -> Host:
    """The host as its kernel and the control groups of this process describe it now.

    Sources: proc(5) meminfo; the kernel's admin-guide cgroup-v2 and cgroup-v1/memory. `root` is
    where /proc and /sys are, for tests.
    """
    meminfo = _meminfo(root / "proc/meminfo")
    total, available = meminfo["MemTotal"], meminfo["MemAvailable"]
    for limit, used in _memory_limits(root):
        total, available = min(total, limit), min(available, max(0, limit - used))

    return Host(cpus=_cpus(root), memory=total, memory_available=available)


def check_memory(
    wanted: int, *, committed: int = 0, overcommit: float = math.inf, host: Host | None = None
) -> None:
    """Refuse a VM of `wanted` bytes of memory that this host cannot run now.

    `committed` is what VMs that run now were promised; with `wanted` it may reach `overcommit`
    times the host's memory. Raises CallerError: invalid_size for too little to boot with,
    insufficient_memory for more than the host has at all; PermanentError(insufficient_memory) for
    more than can be had now.
    """
    if wanted < MEMORY_MINIMUM:
        raise CallerError(
            ErrorCode.INVALID_SIZE,
            f"{format_size(wanted)} of memory is too little for a VM",
            hint=f"give it at least {format_size(MEMORY_MINIMUM)}: --memory",
        )
    host = host or read_host()
    asked, total = format_size(wanted), format_size(host.memory)
    if wanted > host.memory:
        problem: type[BangerError] = CallerError
        message = f"{asked} of memory asked for, this host has {total}"
        hint = "ask for less: --memory"
    elif wanted + MEMORY_RESERVE > host.memory_available:
        problem = PermanentError
        free = format_size(max(0, host.memory_available - MEMORY_RESERVE))
        message = f"{asked} of memory asked for, {free} can be had now"
        hint = "stop a VM (banger vm stop), or ask for less: --memory"
    elif wanted + committed > host.memory * overcommit:
        problem = PermanentError
        message = (
            f"{asked} of memory asked for, running VMs were promised {format_size(committed)} "
            f"and may have {overcommit:g} times the host's {total}"
        )
        hint = "stop a VM (banger vm stop), or raise limits.memory_overcommit in config.toml"
    else:
        return
    raise problem(ErrorCode.INSUFFICIENT_MEMORY, message, hint=hint)


@dataclass(frozen=True, slots=True)
class Room:
    """A file system: its bytes in all, and those that are free to this user."""

    total: int
    free: int

    @property
    def reserve(self) -> int:
        """How many bytes have to stay free while guests write: a twentieth, 1 GiB at most."""
        return min(GIB, self.total // 20)


def measure_room(path: Path) -> Room:
    """The room on the file system of `path`."""
    found = os.statvfs(path)
    return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def free_bytes(path: Path) -> int:
    """Bytes this user may still write on the file system of `path`, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent

    return measure_room(path).free


def check_disk(path: Path, wanted: int) -> None:
    """Raise PermanentError(insufficient_disk) unless `wanted` bytes are free where `path` is."""
    free = free_bytes(path)
    if free < wanted:
        raise PermanentError(
            ErrorCode.INSUFFICIENT_DISK,
            f"{format_size(wanted)} of disk space needed in {path}, {format_size(free)} are free",
            hint=MAKE_ROOM,
        )


def check_disk_beside_guests(path: Path, wanted: int = 0) -> None:
    """As `check_disk`, with what has to stay free while guests write left over."""
    check_disk(path, wanted + measure_room(path).reserve)


def _meminfo(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}


def _cpus(root: Path) -> int:
    usable = len(os.sched_getaffinity(0))
    quotas = (math.ceil(quota) for quota in _cpu_quotas(root))
    return max(1, min(usable, *quotas, usable))


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Each memory limit that applies to this process with what is used of it."""
    for group in _groups(root, "memory"):
        for limit_file, used_file, cache_field in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(group / limit_file), _number(group / used_file)
            if limit is not None and used is not None and limit < _UNLIMITED:
                # Page cache that nobody uses is given back before the limit bites.
                yield limit, max(0, used - _stat(group / "memory.stat", cache_field))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in _groups(root, "cpu"):
        quota, period = _words(group / "cpu.max")
        if quota is None:
            quota = _number(group / "cpu.cfs_quota_us")
            period = _number(group / "cpu.cfs_period_us")

        if quota and quota > 0 and period:
            yield quota / period


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's control group for `controller`, up to the root group.

    In a container the path may name a place outside of what is mounted; then only those parents
    that exist count, the mount point itself among them.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue

        base = mounts / controller if controllers else mounts
        inner = base / group.lstrip("/")
        for directory in (inner, *inner.parents):
            yield directory
            if directory == base:
                break


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> tuple[int | None, int | None]:
    words = " ".join(_lines(path)).split()
    return (_as_number(words[0]), _as_number(words[1])) if len(words) == 2 else (None, None)


def _number(path: Path) -> int | None:
    return _as_number(" ".join(_lines(path)))


def _as_number(text: str) -> int | None:
    return int(text) if text.lstrip("-").isdecimal() else None


def _stat(path: Path, field: str) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name == field:
            return int(value)

    return 0
