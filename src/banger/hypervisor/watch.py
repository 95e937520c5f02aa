"""What banger does for a running VMM for as long as it watches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from banger.host import process
from banger.hypervisor.base import VMMHandle
from banger.hypervisor.console import Bounds
from banger.hypervisor.identity import process_of


class Watch:
    """Hears of the VMM's end, and keeps its logs small."""

    def __init__(
        self,
        handle: VMMHandle,
        bounds: Bounds,
        logs: Sequence[Path],
        on_end: Callable[[], None],
    ) -> None:
        self._pid = handle.pid
        self._bounds = bounds
        self._unwatch = process.on_exit(process_of(handle), on_end)
        if logs:
            bounds.add(handle.pid, *logs)

    def close(self) -> None:
        """Stop watching; the VMM goes on."""
        self._unwatch()
        self._bounds.remove(self._pid)
