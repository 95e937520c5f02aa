"""What is known of any VMM process."""

from __future__ import annotations

from pathlib import Path

from banger.host.process import ProcessRef
from banger.hypervisor.base import VMMHandle

PROC = Path("/proc")


def process_of(handle: VMMHandle) -> ProcessRef:
    """The process of `handle`, without what else is known of it."""
    return ProcessRef(pid=handle.pid, start_time=handle.start_time)


def command_line_of(pid: int) -> list[str]:
    """The argument vector of a process; empty when it is gone or a zombie."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
