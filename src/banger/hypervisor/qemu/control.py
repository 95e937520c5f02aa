"""The guest's control port: lines of text over the socket behind a virtio-serial port.

    guest: ready <boot id>   it answers; said again whenever the host connects, and after a reboot
    host:  ready?            say it again; a quick change of hosts goes unnoticed otherwise
    host:  poweroff          write everything to disk and end

What the guest sends is not trusted: lines that are too long or not understood end nothing and keep
nothing, and a guest that talks without end is read at a measured pace.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import cast

_READY = re.compile(rb"ready ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_LINE_MAX = 256

# The pause after each time something was read: enough for a guest that speaks once a boot.
_PACE_SECONDS = 0.2


class ControlLink(asyncio.Protocol):
    """One connection to one guest. A boot id is told once, when it is new."""

    def __init__(self) -> None:
        self._buffer = b""
        self._told: str | None = None
        self._heard: str | None = None
        self._changed = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, path: Path) -> ControlLink:
        """Connect to the socket at `path`. Raises OSError when nobody listens there."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(cls, str(path))
        return link

    @property
    def closed(self) -> bool:
        return self._transport is None

    def send(self, line: str) -> None:
        """Send `line`; the guest reads it when it can. Never waits."""
        if self._transport is None:
            raise ConnectionResetError("the VMM has closed the control port")

        self._transport.write(line.encode() + b"\n")

    async def next_boot(self) -> str:
        """The boot id of a guest that is up, once for each boot.

        Raises ConnectionResetError when the VMM ends first.
        """
        while self._heard == self._told:
            if self._transport is None:
                raise ConnectionResetError("the VMM has ended")

            self._changed.clear()
            await self._changed.wait()

        self._told = self._heard
        return cast("str", self._heard)

    def close(self) -> None:
        """Let go of the connection; the next one is told `ready` anew."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.send("ready?")

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._buffer + data).split(b"\n")
        self._buffer = rest[:_LINE_MAX]
        for line in lines:
            match = _READY.fullmatch(line.strip())
            if match:
                self._heard = match[1].decode()
                self._changed.set()

        self._rest()

    def _rest(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_PACE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
