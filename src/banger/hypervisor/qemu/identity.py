"""Which process is the VMM of a run directory: the one whose command line names its pidfile."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from banger.host.process import reference
from banger.hypervisor.base import VMMHandle
from banger.hypervisor.identity import PROC, command_line_of
from banger.hypervisor.qemu import args


def is_vmm(argv: Sequence[str], run_dir: Path) -> bool:
    """Whether `argv` runs the VMM of `run_dir`."""
    return ("-pidfile", str(args.pidfile(run_dir))) in pairwise(argv)


def identify(pid: int, run_dir: Path) -> VMMHandle | None:
    """The handle of process `pid` if it is the VMM of `run_dir` and runs."""
    process = reference(pid)
    argv = command_line_of(pid)
    if process is None or not is_vmm(argv, run_dir):
        return None
    try:
        executable = str((PROC / str(pid) / "exe").readlink())
    except OSError:
        return None
    return VMMHandle(
        pid=pid,
        start_time=process.start_time,
        executable=executable,
        run_dir=str(run_dir),
        accelerator=args.accelerator(argv),
    )


def search(run_dir: Path) -> VMMHandle | None:
    """The VMM of `run_dir`: by its pidfile, and among all processes when it has not written one.

    Blocks for some milliseconds when there is no pidfile.
    """
    try:
        text = args.pidfile(run_dir).read_text().strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    found = identify(int(text), run_dir) if text.isascii() and text.isdecimal() else None
    return found or _search_all(run_dir)


def _search_all(run_dir: Path) -> VMMHandle | None:
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())
    handles = (identify(pid, run_dir) for pid in pids)
    return next((handle for handle in handles if handle is not None), None)
