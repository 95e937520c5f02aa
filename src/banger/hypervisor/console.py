"""Serial console logs that stay small.

A VMM appends to a log without limit, so a guest that floods its console would fill the host's disk.
A log above LIMIT bytes is emptied where it is: the VMM and whoever follows the file go on with it,
and its last KEEP bytes move to `<log>.1`. As it was opened for appending, its next write goes to
the new end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from banger.api.sizes import MIB

LIMIT = 16 * MIB
KEEP = MIB

# One stat(2) for each running VM this often: nothing to measure, and 10 s of the fastest flood.
SECONDS = 10.0


def shorten(log: Path, *, limit: int = LIMIT, keep: int = KEEP) -> bool:
    """Empty `log` if it is longer than `limit` bytes. Returns whether it was."""
    try:
        info = log.stat()
    except FileNotFoundError:
        return False
    # One that is not written by appending is sparse after it was emptied: st_blocks are 512 bytes.
    size = info.st_size
    if min(size, info.st_blocks * 512) <= limit:
        return False

    # On a full disk making room matters more than the old lines.
    with contextlib.suppress(OSError):
        _save_tail(log, size - keep)

    os.truncate(log, 0)
    return True


def _save_tail(log: Path, start: int) -> None:
    previous = log.with_name(f"{log.name}.1")
    with log.open("rb") as source:
        source.seek(start)
        tail = source.read(KEEP)

    previous.unlink(missing_ok=True)
    previous.touch(mode=0o600)
    previous.write_bytes(tail)


class Bounds:
    """Keeps the logs it is given short, for as long as it has any."""

    def __init__(self) -> None:
        self._logs: dict[int, tuple[Path, ...]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, pid: int, *logs: Path) -> None:
        """Keep the logs of the VMM `pid` short, from now on."""
        self._logs[pid] = logs
        if self._timer is None:
            self._tick()

    def remove(self, pid: int) -> None:
        """Leave the logs of the VMM `pid` alone."""
        self._logs.pop(pid, None)

    def close(self) -> None:
        """Leave all logs alone."""
        self._logs.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self._logs:
            return

        for log in (log for logs in self._logs.values() for log in logs):
            shorten(log)

        self._timer = asyncio.get_running_loop().call_later(SECONDS, self._tick)
