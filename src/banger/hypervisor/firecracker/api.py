"""A connection to a Firecracker's API: HTTP/1.1 over the unix socket in its run directory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from banger.hypervisor.firecracker.model import (
    BalloonStatistics,
    InstanceInfo,
    Refusal,
    RunState,
    Setting,
)
from banger.privileged.ops import API_SOCKET

A = TypeVar("A")

# Everything but snapshots is done in milliseconds, on a host that swaps in seconds.
ANSWER_SECONDS = 30.0

_MAX_HEAD = 1 << 16
_MAX_BODY = 1 << 20
_POLL_SECONDS = 0.005


class RefusedError(Exception):
    """Firecracker does not do what it was asked; `reason` is its own word for why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Api:
    """One request after the other.

    All raise RefusedError, ConnectionError when the VMM has ended or talks nonsense, TimeoutError.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def put(self, setting: Setting, *, timeout: float = ANSWER_SECONDS) -> None:
        """Have `setting` so, or done."""
        await self._ask(setting.method, setting.target, msgspec.json.encode(setting), timeout)

    async def set_state(self, state: RunState) -> None:
        """Stop the guest's processors, or let them go on; nothing if it is so already."""
        await self._ask("PATCH", "/vm", msgspec.json.encode(state), ANSWER_SECONDS)

    async def info(self) -> InstanceInfo:
        """What the VMM says of itself."""
        return await self._get("/", InstanceInfo)

    async def balloon(self) -> BalloonStatistics:
        """What the balloon has taken from the guest."""
        return await self._get("/balloon/statistics", BalloonStatistics)

    async def _get(self, target: str, answer: type[A]) -> A:
        body = await self._ask("GET", target, b"", ANSWER_SECONDS)
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.DecodeError as error:
            raise _nonsense(str(error)) from None

    async def _ask(self, method: str, target: str, body: bytes, timeout: float) -> bytes:
        head = f"{method} {target} HTTP/1.1\r\nHost: vmm\r\nAccept: application/json\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"

        async with asyncio.timeout(timeout):
            self._writer.write(head.encode("ascii") + b"\r\n" + body)
            status, content = await self._answer()

        if 200 <= status < 300:
            return content

        raise RefusedError(_reason(content))

    async def _answer(self) -> tuple[int, bytes]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, length = parse_head(head)
            return status, await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the VMM has ended") from None
        except asyncio.LimitOverrunError:
            raise _nonsense("its answer does not begin") from None


@asynccontextmanager
async def connected(run_dir: Path, *, patience: float = 0) -> AsyncIterator[Api]:
    """A connection to the VMM of `run_dir`. Raises ConnectionError when there is none.

    A socket is there a moment before it takes connections: `patience` is how many seconds that may
    last of a VMM that has just been started.
    """
    reader, writer = await _opened(run_dir / API_SOCKET, time.monotonic() + patience)
    try:
        yield Api(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _opened(
    socket: Path, deadline: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.open_unix_connection(socket, limit=_MAX_HEAD)
        except FileNotFoundError:
            raise ConnectionRefusedError("the VMM has ended") from None
        except ConnectionRefusedError:
            if time.monotonic() >= deadline:
                raise

            await asyncio.sleep(_POLL_SECONDS)


def parse_head(head: bytes) -> tuple[int, int]:
    """The status of an answer, and how many bytes of content follow. Raises ConnectionError."""
    status_line, *fields = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    length = "0"
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "content-length":
            length = value.strip()

    digits = rest[:3] + length
    if not (version.startswith("HTTP/1.") and digits.isascii() and digits.isdecimal()):
        raise _nonsense(status_line)

    if len(length) > 9 or int(length) > _MAX_BODY:
        raise _nonsense(f"an answer of {length[:20]} bytes")

    return int(rest[:3]), int(length)


def _reason(content: bytes) -> str:
    try:
        reason = msgspec.json.decode(content, type=Refusal).fault_message
    except msgspec.DecodeError:
        reason = content.decode(errors="replace")

    return reason.strip() or "it gives no reason"


def _nonsense(what: str) -> ConnectionError:
    return ConnectionError(f"the VMM talks nonsense: {what[:100]!r}")
