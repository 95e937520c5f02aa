"""A client of QEMU's machine protocol (QMP, docs/interop/qmp-spec in QEMU's source).

One JSON object a line. Commands may be sent without waiting for each other's answers. What comes
is not trusted: a guest may have taken the VMM over.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

import msgspec

# Answers about a disk of many layers are the longest, at some tens of KiB.
MESSAGE_MAX = 1 << 20

# A command that takes longer than this has met a VMM that is wedged, or a host that is swapping.
ANSWER_SECONDS = 30.0

Arguments = Mapping[str, object]
R = TypeVar("R")


class Event(msgspec.Struct, frozen=True):
    """Something that happened in the VMM; `data` is JSON."""

    name: str
    data: msgspec.Raw

    def read(self, kind: type[R]) -> R:
        """What of `data` is in `kind`. Raises ConnectionError when it is something else."""
        return _decode(self.data, kind)


class Refused(Exception):  # noqa: N818, it names what QEMU did
    """QEMU has not done what it was told: its class of error, and why in its own words."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class _Error(msgspec.Struct, frozen=True):
    kind: str = msgspec.field(name="class")
    desc: str


class _Message(msgspec.Struct, frozen=True):
    """A greeting, an answer or an event."""

    id: int | None = None
    answer: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw(b"{}"))
    error: _Error | None = None
    event: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Qmp(asyncio.Protocol):
    """One connection. When it ends, everybody who waits for something gets a ConnectionError.

    `ready` is done when QEMU has answered for the first time, which its main loop does: all devices
    are made then. `on_event` hears of all events.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._expected: list[tuple[Callable[[Event], bool], asyncio.Future[Event]]] = []
        self._transport: asyncio.Transport | None = None
        self.on_event: Callable[[Event], None] | None = None
        self.ready: asyncio.Future[msgspec.Raw]

    @classmethod
    async def connect(cls, path: Path) -> Qmp:
        """Connect to the socket `path`, and send before anything else that we are a client.

        Raises ConnectionError when nobody listens there. Until QEMU lets its last client go, it
        answers nothing.
        """
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, str(path))
        except OSError as error:
            connection.close()
            raise ConnectionRefusedError(f"no monitor: {error.strerror}") from None
        except BaseException:
            connection.close()
            raise
        _, qmp = await loop.create_unix_connection(lambda: cls(connection), sock=connection)
        qmp.ready = qmp.send("qmp_capabilities")
        return qmp

    @property
    def closed(self) -> bool:
        return self._transport is None

    def send(
        self, command: str, arguments: Arguments | None = None, *, descriptor: int | None = None
    ) -> asyncio.Future[msgspec.Raw]:
        """Send `command`, and with it an open file if given; the answer comes in the future.

        The future may be dropped. It raises Refused, or ConnectionError.
        """
        number = next(self._numbers)
        future = self._future(msgspec.Raw)
        if self._transport is None:
            future.set_exception(_lost())
            return future

        self._answers[number] = future
        message = {"execute": command, "arguments": arguments or {}, "id": number}
        line = msgspec.json.encode(message) + b"\n"
        if descriptor is None:
            self._transport.write(line)
        else:
            self._pass(self._transport, line, descriptor)

        return future

    async def run(
        self, command: str, arguments: Arguments | None = None, *, descriptor: int | None = None
    ) -> msgspec.Raw:
        """Send `command` and wait for its answer. Raises Refused, ConnectionError, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self.send(command, arguments, descriptor=descriptor)

    async def ask(self, command: str, answer: type[R]) -> R:
        """Like `run`; what of the answer is in `answer`."""
        return _decode(await self.run(command), answer)

    def expect(self, matches: Callable[[Event], bool]) -> asyncio.Future[Event]:
        """The next event that `matches`, from now on. Cancel it when it is not wanted any more."""
        future = self._future(Event)
        if self._transport is None:
            future.set_exception(_lost())
        else:
            self._expected.append((matches, future))

        return future

    def close(self) -> None:
        """Let go of the monitor; the VMM goes on."""
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n") if b"\n" in data else [self._buffer]
        self._buffer = rest
        if len(rest) > MESSAGE_MAX:
            self.close()

        for line in lines:
            self._hear(bytes(line))

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        for answer in self._answers.values():
            _fail(answer)

        for _, event in self._expected:
            _fail(event)

        self._answers.clear()
        self._expected.clear()

    def _hear(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line, type=_Message)
        except msgspec.DecodeError:
            # After nonsense nothing that comes can be relied upon.
            self.close()
            return
        if message.event is not None:
            self._happened(Event(message.event, message.data))
            return

        future = self._answers.pop(message.id, None) if message.id is not None else None
        if future is None or future.done():
            return

        if message.error is None:
            future.set_result(message.answer)
        else:
            future.set_exception(Refused(message.error.kind, message.error.desc))

    def _happened(self, event: Event) -> None:
        self._expected = [wait for wait in self._expected if not wait[1].done()]
        try:
            for matches, future in self._expected:
                if matches(event):
                    future.set_result(event)

            if self.on_event is not None:
                self.on_event(event)
        except ConnectionError:
            self.close()

    def _pass(self, transport: asyncio.Transport, line: bytes, descriptor: int) -> None:
        # The file belongs to these bytes, so none may wait before them: QEMU takes them as they
        # come, unless it is wedged.
        try:
            if transport.get_write_buffer_size():
                raise BlockingIOError

            sent = socket.send_fds(self._socket, [line], [descriptor])
        except OSError:
            self.close()
            return
        transport.write(line[sent:])

    def _future(self, _result: type[R]) -> asyncio.Future[R]:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        # Who does not look at an answer does not care; asyncio would complain.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future


def _fail(future: asyncio.Future[R]) -> None:
    if not future.done():
        future.set_exception(_lost())


def _lost() -> ConnectionResetError:
    return ConnectionResetError("the VMM has closed its monitor")


def _decode(text: msgspec.Raw, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ConnectionError(f"the VMM does not speak QMP: {error}") from None
