"""Processes by identity: a pid together with its start time, because pids are reused."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec


class ProcessRef(msgspec.Struct, frozen=True, kw_only=True):
    """One process, for ever. `start_time` is field 22 of proc_pid_stat(5): ticks since boot."""

    pid: int
    start_time: int


def reference(pid: int) -> ProcessRef | None:
    """The process that has `pid` now; None when there is none, or only a zombie."""
    state, process = _look(pid)
    return None if state in (b"Z", b"X") else process


def alive(process: ProcessRef) -> bool:
    """Whether exactly that process still runs; a zombie does not."""
    return reference(process.pid) == process


def send_signal(process: ProcessRef, number: int) -> bool:
    """Send signal `number` to exactly that process; False when it is gone.

    The pidfd pins the process before its identity is checked, so a reused pid is never hit.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def reap(pid: int) -> str | None:
    """Let the kernel forget the child `pid` if it has ended; how it did, in words, if it was ours.

    Until then a child that has ended stays behind as a zombie.
    """
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if ended == 0:
        return None

    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def on_exit(process: ProcessRef, callback: Callable[[], None]) -> Callable[[], None]:
    """Call `callback` once from the running event loop when `process` has ended; costs no CPU.

    Returns a function that takes the watch back. A process that is gone already is reported too.
    """
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        handle = loop.call_soon(callback)
        return handle.cancel
    # A process whose first thread is a zombie may have others that still hold its files: only the
    # pidfd knows when all have ended.
    if _look(process.pid)[1] != process:
        os.close(descriptor)
        handle = loop.call_soon(callback)
        return handle.cancel
    watching = True

    def stop() -> None:
        nonlocal watching
        if watching:
            watching = False
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def ended() -> None:
        stop()
        callback()

    loop.add_reader(descriptor, ended)
    return stop


def _look(pid: int) -> tuple[bytes, ProcessRef | None]:
    """The state of the first thread of `pid` (proc_pid_stat(5)) and the process, zombie or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return b"X", None
    # The command name is in parentheses and may itself hold spaces and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[0], ProcessRef(pid=pid, start_time=int(fields[19]))
