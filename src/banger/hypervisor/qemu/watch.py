"""What banger does for a running QEMU for as long as it watches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from banger.hypervisor.base import VMMHandle
from banger.hypervisor.console import Bounds
from banger.hypervisor.identity import command_line_of
from banger.hypervisor.qemu import args, postmortem
from banger.hypervisor.qemu.monitor import Monitor, Resumer
from banger.hypervisor.watch import Watch


class QemuWatch(Watch):
    """It also lets its guest go on after a full disk."""

    def __init__(
        self, handle: VMMHandle, bounds: Bounds, monitor: Monitor, on_end: Callable[[], None]
    ) -> None:
        console = args.console_log(command_line_of(handle.pid))
        logs = () if console is None else (console, postmortem.log_file(Path(handle.run_dir)))
        super().__init__(handle, bounds, logs, on_end)
        self._resumer = Resumer(monitor)

    def close(self) -> None:
        """As `Watch.close`."""
        super().close()
        self._resumer.close()
