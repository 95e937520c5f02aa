"""Requests by blocking calls, for programs without an event loop."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from banger.api.errors import OutcomeUnknown, TransientError
from banger.channel.base import GuestChannel
from banger.channel.exchange import (
    GREETING_SECONDS,
    connect_patiently,
    pause_to_greet_again,
    session_on,
    silent,
)
from banger.channel.frames import Kind
from banger.channel.link import Link
from banger.channel.requests import (
    Answer,
    Request,
    frames_taken,
    read_answer,
    takes_input,
)
from banger.channel.session import End, Event, Output, Session, StdinClosed

A = TypeVar("A", bound=Answer)

# No more than this waits in memory to be sent.
_SEND = 1 << 17


def drop(kind: Kind, data: bytes) -> None:
    """The sink of a request that has no output."""


class GuestCalls:
    """Asks the agent of one guest.

    `patience` is how many seconds may pass until a stream is free and the agent answers on it,
    which it does not before the guest has booted. Besides what the agent's answers raise
    (`read_answer`), calls raise TransientError: agent_busy, agent_unreachable, guest_timeout when
    the agent does not answer; PermanentError(agent_protocol), and OutcomeUnknown(stream_lost).
    """

    def __init__(self, channel: GuestChannel, *, patience: float = GREETING_SECONDS) -> None:
        self._channel = channel
        self._patience = patience

    def ask(
        self,
        request: Request,
        answer: type[A],
        *,
        source: Iterator[bytes] | None = None,
        sink: Callable[[Kind, bytes], None] = drop,
        timeout: float | None = None,
    ) -> A:
        """Send `request`, what `source` gives as its input, and its output to `sink`.

        `timeout` is how many seconds the answer may take once the agent has greeted.
        """
        if takes_input(request):
            source = source or iter(())

        text = self._exchange(request, source, sink, timeout)
        return read_answer(text, answer)

    def _exchange(
        self,
        request: Request,
        source: Iterator[bytes] | None,
        sink: Callable[[Kind, bytes], None],
        timeout: float | None,
    ) -> bytes:
        deadline = time.monotonic() + self._patience
        while True:
            stream = connect_patiently(self._channel, deadline)
            session = session_on(stream, request)
            link = Link(self._channel, stream, session, deadline)
            aligned = False
            try:
                text = _Call(link, session, source, sink).run(timeout)
                aligned = session.aligned(frames_taken(text))
            except (TransientError, OutcomeUnknown) as error:
                time.sleep(pause_to_greet_again(error, stream, session, deadline))
            else:
                return text
            finally:
                link.close(aligned=aligned)


class _Call:
    def __init__(
        self,
        link: Link,
        session: Session,
        source: Iterator[bytes] | None,
        sink: Callable[[Kind, bytes], None],
    ) -> None:
        self._link = link
        self._session = session
        self._source = source
        self._sink = sink
        self._pending = b""
        self._text: bytes | None = None

    def run(self, timeout: float | None) -> bytes:
        deadline: float | None = None
        while self._text is None:
            self._fill()
            if self._session.welcomed and deadline is None and timeout is not None:
                deadline = time.monotonic() + timeout

            if self._happened(deadline):
                for event in self._link.move():
                    self._handle(event)
            elif deadline is not None and time.monotonic() >= deadline:
                raise silent()
            else:
                self._link.waited()

        return self._text

    def _happened(self, deadline: float | None) -> bool:
        """Whether there is anything to move before `deadline`, or before the link is to be told."""
        wanted = select.POLLIN | (select.POLLOUT if self._session.outgoing else 0)
        poll = select.poll()
        poll.register(self._link.fileno(), wanted)
        patience = self._link.patience()
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            patience = left if patience is None else min(left, patience)

        return bool(poll.poll(None if patience is None else patience * 1000))

    def _handle(self, event: Event) -> None:
        if isinstance(event, Output):
            self._sink(event.kind, event.data)
            self._session.grant(event.kind, len(event.data))
        elif isinstance(event, StdinClosed):
            self._source = None
        elif isinstance(event, End):
            self._text = event.text
            self._source = None

    def _fill(self) -> None:
        """Take as much from the source as may be sent."""
        while self._source is not None and len(self._session.outgoing) < _SEND:
            room = self._session.stdin_room
            if room == 0:
                return

            if not self._pending:
                piece = next(self._source, None)
                if piece is None:
                    self._source = None
                    self._session.send_eof()
                    return

                self._pending = piece

            self._session.send_stdin(self._pending[:room])
            self._pending = self._pending[room:]
