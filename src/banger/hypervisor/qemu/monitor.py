"""The monitor of a VMM: one connection, since QEMU lets one client have it, that all here share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import msgspec

from banger.hypervisor.qemu import runstate, sockets
from banger.hypervisor.qemu.qmp import ANSWER_SECONDS, Event, Qmp, Refused

log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


class Monitor:
    """The way to the VMM of `run_dir`.

    `exclusive` is held by whoever makes the guest stop and go on, until it is as it should be.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.exclusive = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._qmp: Qmp | None = None

    def adopt(self, qmp: Qmp) -> None:
        """Use a connection that is there already."""
        self._qmp = qmp

    async def qmp(self) -> Qmp:
        """The connection, made if there is none. Raises ConnectionError, TimeoutError."""
        async with self._connecting:
            if self._qmp is None or self._qmp.closed:
                self._qmp = await _connect(sockets.monitor_socket(self.run_dir))

            return self._qmp

    def close(self) -> None:
        """Let go of the monitor; the VMM goes on."""
        if self._qmp is not None:
            self._qmp.close()


async def _connect(path: Path) -> Qmp:
    qmp = await Qmp.connect(path)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await qmp.ready
    except BaseException:
        qmp.close()
        raise
    return qmp


class _Failure(msgspec.Struct, frozen=True):
    """Of the event BLOCK_IO_ERROR what is looked at here."""

    action: str = ""
    reason: str = ""


class Resumer:
    """Lets a guest go on that QEMU has stopped because the host could not store what it wrote.

    QEMU stops a guest rather than tell it of a full host disk, which it could not mend and which
    would cost it its file system. The write that failed is tried again every few seconds, so the
    guest goes on when there is room, and has lost nothing. A guest that somebody has paused stays
    paused.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._retry: asyncio.Task[None] | None = None
        self._begin = asyncio.create_task(self._listen())

    def close(self) -> None:
        """Leave the guest alone."""
        self._begin.cancel()
        if self._retry is not None:
            self._retry.cancel()

    async def _listen(self) -> None:
        # Of a VMM that is gone its end is heard.
        with contextlib.suppress(ConnectionError, TimeoutError, Refused):
            qmp = await self._monitor.qmp()
            qmp.on_event = self._hear
            # The guest may have been stopped while no daemon was there.
            if await runstate.status(qmp) == runstate.IO_ERROR:
                self._schedule("see df")

    def _hear(self, event: Event) -> None:
        if event.name == "BLOCK_IO_ERROR":
            failure = event.read(_Failure)
            if failure.action == "stop":
                self._schedule(failure.reason)

    def _schedule(self, reason: str) -> None:
        if self._retry is not None:
            return

        log.warning(
            "VM %s waits: the host could not write to its disk (%s); trying again",
            self._monitor.run_dir.name,
            reason,
        )
        self._retry = asyncio.create_task(self._try_again())

    async def _try_again(self) -> None:
        await asyncio.sleep(_RETRY_SECONDS)
        with contextlib.suppress(ConnectionError, TimeoutError, Refused):
            async with self._monitor.exclusive:
                qmp = await self._monitor.qmp()
                # From here on a write that fails is told anew.
                self._retry = None
                if await runstate.status(qmp) == runstate.IO_ERROR:
                    await qmp.run("cont")
