"""QEMU's machine protocol (QMP, docs/interop/qmp-spec in QEMU's source): one JSON object a line.

QEMU serves one client at a time, so a connection is held by whoever watches the VM and by nobody
else for long.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import cast

import msgspec

log = logging.getLogger(__name__)

_ENTER = b'{"execute": "qmp_capabilities"}\n'
_STATUS = b'{"execute": "query-status"}\n'
_CONTINUE = b'{"execute": "cont"}\n'

# QEMU's messages are short; one that is not comes from a VMM that a guest has taken over.
_MESSAGE_MAX = 65536

_RETRY_SECONDS = 5.0


class _Data(msgspec.Struct, frozen=True):
    """Of an event's or reply's content what is looked at here."""

    action: str | None = None
    reason: str = ""
    status: str | None = None


class _Message(msgspec.Struct, frozen=True):
    """An event, a reply or a greeting."""

    event: str | None = None
    data: _Data = _Data()
    reply: _Data = msgspec.field(default=_Data(), name="return")


class Resumer(asyncio.Protocol):
    """Lets a guest go on that QEMU has stopped because the host could not store what it wrote.

    QEMU stops a guest rather than tell it of a full host disk, which it could not mend and which
    would cost it its file system. The write that failed is tried again every few seconds, so the
    guest goes on when there is room, and has lost nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._retry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # The guest may have been stopped while no daemon was there.
        self._transport.write(_ENTER + _STATUS)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._retry is not None:
            self._retry.cancel()

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _MESSAGE_MAX:
            self.close()

        for line in lines:
            self._hear(line)

    def close(self) -> None:
        """Let go of the monitor."""
        if self._transport is not None:
            self._transport.abort()

    def _hear(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line, type=_Message)
        except msgspec.DecodeError:
            return
        failed = message.event == "BLOCK_IO_ERROR" and message.data.action == "stop"
        if (failed or message.reply.status == "io-error") and self._retry is None:
            log.warning(
                "VM %s waits: the host could not write to its disk (%s); trying again",
                self._name,
                message.data.reason or "see df",
            )
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self._transport is not None:
            self._transport.write(_CONTINUE)


async def serves(path: Path) -> bool:
    """Wait until the QEMU behind the monitor socket `path` runs its main loop.

    False when it ends before. A connection made earlier waits in the socket's queue.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    try:
        # The greeting comes from a thread of its own, before devices are made and signals heard;
        # commands are answered by the main loop.
        writer.write(_ENTER)
        return await _answered(reader)
    except (OSError, ValueError):
        return False
    finally:
        writer.close()


async def _answered(reader: asyncio.StreamReader) -> bool:
    async for line in reader:
        if line.startswith(b'{"return"'):
            return True

    return False
