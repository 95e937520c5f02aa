"""Requests on an event loop, for the daemon."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple, TypeVar

from banger.api.errors import ErrorCode, OutcomeUnknown, PermanentError, TransientError
from banger.channel.base import GuestChannel, GuestStream
from banger.channel.calls import drop
from banger.channel.exchange import (
    GREETING_SECONDS,
    greeting_deadline,
    pause_to_greet_again,
    received,
    session_on,
    silent,
)
from banger.channel.frames import Kind
from banger.channel.requests import (
    Answer,
    Exec,
    Exited,
    Request,
    frames_taken,
    read_answer,
    stream_lost,
    takes_input,
)
from banger.channel.session import End, Output, Session

A = TypeVar("A", bound=Answer)

MAX_OUTPUT = 1 << 20
_BUSY_SECONDS = 0.02
_RECEIVE = 1 << 16


class Ran(NamedTuple):
    """A program that ended, and what it wrote."""

    exited: Exited
    stdout: bytes
    stderr: bytes


class GuestAgent:
    """Asks the agent of one guest; calls may overlap.

    With `reserved` it uses the streams that are the daemon's alone, so that people who use up the
    others cannot keep it out. Errors are those of `calls.GuestCalls`. A call that is cancelled ends
    what it had asked for, as far as the agent can.
    """

    def __init__(self, channel: GuestChannel, *, reserved: bool = True) -> None:
        self._channel = channel
        self._reserved = reserved

    async def ask(
        self,
        request: Request,
        answer: type[A],
        *,
        patience: float = GREETING_SECONDS,
        timeout: float | None = 30.0,
        stdin: bytes = b"",
        sink: Callable[[Kind, bytes], None] = drop,
    ) -> A:
        """Send `request` and return the answer.

        It waits `patience` seconds for the agent to greet, which it does as soon as the guest has
        come so far, and then `timeout` seconds for its answer.
        """
        deadline = time.monotonic() + patience
        while True:
            stream = await self._connect(deadline)
            session = session_on(stream, request)
            given = stdin if takes_input(request) else None
            exchange = _Exchange(stream.connection, session, given, sink)
            aligned = False
            try:
                text = await exchange.run(greeting_deadline(stream, deadline), timeout)
                aligned = session.aligned(frames_taken(text))
                return read_answer(text, answer)
            except (TransientError, OutcomeUnknown) as error:
                pause = pause_to_greet_again(error, stream, session, deadline)
            finally:
                stream.close(aligned=aligned)

            await asyncio.sleep(pause)

    async def run(self, request: Exec, *, stdin: bytes = b"", timeout: float | None = 60.0) -> Ran:
        """Run a program to its end and return what it wrote.

        Raises PermanentError(agent_failed) when that is more than a MiB.
        """
        written = {Kind.STDOUT: bytearray(), Kind.STDERR: bytearray()}

        def keep(kind: Kind, data: bytes) -> None:
            written[kind] += data
            if len(written[kind]) > MAX_OUTPUT:
                raise PermanentError(
                    ErrorCode.AGENT_FAILED,
                    f"{request.argv[:1]} writes more than {MAX_OUTPUT} bytes",
                )

        exited = await self.ask(request, Exited, stdin=stdin, timeout=timeout, sink=keep)
        return Ran(exited, bytes(written[Kind.STDOUT]), bytes(written[Kind.STDERR]))

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None:
        """As `GuestChannel.mark_aligned`."""
        self._channel.mark_aligned(streams)

    def aligned(self) -> bool:
        """As `GuestChannel.aligned`."""
        return self._channel.aligned()

    def held(self) -> AbstractContextManager[tuple[int, ...]]:
        """As `GuestChannel.held`."""
        return self._channel.held()

    async def _connect(self, deadline: float) -> GuestStream:
        while True:
            try:
                return self._channel.connect(reserved=self._reserved)
            except TransientError as error:
                if error.code is not ErrorCode.AGENT_BUSY or time.monotonic() >= deadline:
                    raise

            await asyncio.sleep(_BUSY_SECONDS)


class _Exchange:
    def __init__(
        self,
        connection: socket.socket,
        session: Session,
        stdin: bytes | None,
        sink: Callable[[Kind, bytes], None],
    ) -> None:
        self._connection = connection
        self._session = session
        self._stdin = memoryview(stdin or b"")
        self._stdin_open = stdin is not None
        self._sink = sink
        self._loop = asyncio.get_running_loop()

    async def run(self, greeting_deadline: float, timeout: float | None) -> bytes:
        try:
            async with asyncio.timeout(greeting_deadline - time.monotonic()) as limit:
                while True:
                    await self._send()
                    greeted = self._session.welcomed
                    text = await self._receive()
                    if text is not None:
                        return text

                    if self._session.welcomed and not greeted:
                        limit.reschedule(None if timeout is None else self._loop.time() + timeout)
        except TimeoutError:
            raise silent() from None
        except OSError as error:
            raise stream_lost(error.strerror or str(error)) from None

    async def _send(self) -> None:
        self._fill()
        while self._session.outgoing:
            piece = bytes(self._session.outgoing)
            await self._loop.sock_sendall(self._connection, piece)
            del self._session.outgoing[: len(piece)]
            self._fill()

    def _fill(self) -> None:
        room = self._session.stdin_room
        if room and self._stdin_open:
            self._session.send_stdin(self._stdin[:room].tobytes())
            self._stdin = self._stdin[room:]
            if not self._stdin:
                self._stdin_open = False
                self._session.send_eof()

    async def _receive(self) -> bytes | None:
        data = await self._loop.sock_recv(self._connection, _RECEIVE)
        for event in received(self._session, data):
            if isinstance(event, Output):
                self._sink(event.kind, event.data)
                self._session.grant(event.kind, len(event.data))
            elif isinstance(event, End):
                return event.text

        return None
