"""What banger does for a running VMM for as long as it watches it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from banger.host import process
from banger.hypervisor.base import VMMHandle
from banger.hypervisor.qemu import args, postmortem, sockets
from banger.hypervisor.qemu.console import Bounds
from banger.hypervisor.qemu.identity import command_line_of, process_of
from banger.hypervisor.qemu.monitor import Resumer


class Watch:
    """Hears of the VMM's end, keeps its logs small, lets its guest go on after a full disk."""

    def __init__(self, handle: VMMHandle, bounds: Bounds, on_end: Callable[[], None]) -> None:
        self._handle = handle
        self._bounds = bounds
        self._resumer: Resumer | None = None
        self._unwatch = process.on_exit(process_of(handle), on_end)
        self._connecting = asyncio.create_task(self._connect())
        console = args.console_log(command_line_of(handle.pid))
        if console is not None:
            bounds.add(handle.pid, console, postmortem.log_file(Path(handle.run_dir)))

    def close(self) -> None:
        """Stop watching; the VMM goes on."""
        self._unwatch()
        self._connecting.cancel()
        self._bounds.remove(self._handle.pid)
        if self._resumer is not None:
            self._resumer.close()

    async def _connect(self) -> None:
        run_dir = Path(self._handle.run_dir)
        path = sockets.monitor_socket(run_dir)
        loop = asyncio.get_running_loop()
        # Of a VMM that is gone its end is heard.
        with contextlib.suppress(OSError):
            _, self._resumer = await loop.create_unix_connection(
                lambda: Resumer(run_dir.name), str(path)
            )
