"""A program of the guest on this process's own standard streams, terminal and signals."""

from __future__ import annotations

import os
import secrets
import select
import signal
import stat
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

import msgspec

from banger.api.errors import OutcomeUnknown, TransientError
from banger.channel.base import GuestChannel, GuestStream
from banger.channel.escape import Escape
from banger.channel.exchange import (
    GREETING_SECONDS,
    connect_patiently,
    pause_to_greet_again,
    session_on,
)
from banger.channel.frames import Kind
from banger.channel.link import Link
from banger.channel.requests import (
    Exec,
    Exited,
    frames_taken,
    read_answer,
)
from banger.channel.session import End, Event, Output, Session, StdinClosed

STDIN, STDOUT, STDERR = 0, 1, 2
# What programs go by when they draw.
_TERMINAL_KIND = ("TERM", "COLORTERM")
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# The guest gets so many of them; the next one ends us instead.
_SIGNALS_SENT_ON = 2
_READ = 1 << 16
# What poll(2) calls writable has room for this much: PIPE_BUF.
_ATOMIC = 4096


class SignalledError(Exception):
    """A signal ended us before the guest's program ended; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_program(
    channel: GuestChannel, request: Exec, *, patience: float = GREETING_SECONDS
) -> Exited:
    """Run a program with our standard input, output and error as its own.

    With `request.tty` our terminal is its terminal, of our kind and size: every key goes there, but
    for `~.` at the beginning of a line, which leaves it. Without, the signals that would end us are
    sent on to it, up to the third. A reset of its stream, as a snapshot may be one, is not noticed.
    Raises what `calls.GuestCalls` does, SignalledError, and BrokenPipeError when nobody reads our
    output any more; the program is then ended.
    """
    request = _sized(request)
    token = secrets.token_hex(16)
    deadline = time.monotonic() + patience
    with _Signals() as signals:
        while True:
            stream = connect_patiently(channel, deadline)
            session = _session(request, stream, token)
            link = Link(channel, stream, session, deadline)
            aligned = False
            try:
                with _raw_terminal(enabled=request.tty) as restore_raw:
                    attachment = _Attachment(link, session, signals, raw=request.tty)
                    text = attachment.run(restore_raw)
                aligned = session.aligned(frames_taken(text))
            except (TransientError, OutcomeUnknown) as error:
                time.sleep(pause_to_greet_again(error, stream, session, deadline))
            else:
                return read_answer(text, Exited)
            finally:
                link.close(aligned=aligned)


def _session(request: Exec, stream: GuestStream, token: str) -> Session:
    # A port, which is not made for one use, is never reset.
    token = token if stream.fresh else ""
    return session_on(stream, msgspec.structs.replace(request, token=token), token=token)


def _sized(request: Exec) -> Exec:
    if not request.tty:
        return request

    rows, columns = _size()
    env = {name: os.environ[name] for name in _TERMINAL_KIND if name in os.environ}
    return msgspec.structs.replace(request, rows=rows, columns=columns, env=env | request.env)


def _size() -> tuple[int, int]:
    for descriptor in (STDOUT, STDIN, STDERR):
        with suppress(OSError):
            columns, rows = os.get_terminal_size(descriptor)
            return rows, columns

    return 24, 80


class _Signals:
    """Signals as bytes in a pipe, for as long as they are wanted."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._wakeup = -1
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (*_SIGNALS, signal.SIGWINCH, signal.SIGCONT):
            # What is ignored stays so: that is what nohup(1) wants.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, _take)

        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, action in self._previous.items():
            signal.signal(number, action)

        os.close(self.reader)
        os.close(self._writer)

    def read(self) -> bytes:
        """The numbers of those that came."""
        with suppress(BlockingIOError):
            return os.read(self.reader, 64)

        return b""


def _take(number: int, frame: FrameType | None) -> None:
    """The byte in the pipe is what matters."""


@contextmanager
def _raw_terminal(*, enabled: bool) -> Iterator[Any]:
    """Have every key passed on as it is; gives a function that does it again after a stop."""
    if not enabled:
        yield lambda: None
        return

    before = termios.tcgetattr(STDIN)

    def make_raw() -> None:
        tty.setraw(STDIN, termios.TCSADRAIN)

    try:
        make_raw()
        yield make_raw
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


class _Sink:
    """One of our outputs: takes what it can get rid of without waiting."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pending = bytearray()
        self._own = -1
        mode = os.fstat(descriptor).st_mode
        self._limit = _READ if stat.S_ISREG(mode) else _ATOMIC
        if stat.S_ISFIFO(mode):
            self._reopen()

    def _reopen(self) -> None:
        """Not to wait is a setting others would share, unless the pipe is opened once more."""
        path = f"/proc/self/fd/{self.descriptor}"
        with suppress(OSError):
            self._own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self.descriptor, self._limit = self._own, _READ

    def write(self) -> int:
        """Write a piece of what is pending, which poll(2) has said is possible."""
        try:
            count = os.write(self.descriptor, self.pending[: self._limit])
        except BlockingIOError:
            return 0

        del self.pending[:count]
        return count

    def close(self) -> None:
        if self._own >= 0:
            os.close(self._own)


class _Attachment:
    def __init__(self, link: Link, session: Session, signals: _Signals, *, raw: bool) -> None:
        self._link = link
        self._session = session
        self._signals = signals
        self._escape = Escape() if raw else None
        self._stdin_open = True
        self._sinks = {Kind.STDOUT: _Sink(STDOUT), Kind.STDERR: _Sink(STDERR)}
        self._signals_seen = 0
        self._text: bytes | None = None

    def run(self, restore_raw: Any) -> bytes:  # noqa: ANN401
        try:
            while self._text is None or self._unwritten():
                patience = self._link.patience() if self._text is None else None
                ready = self._poll().poll(None if patience is None else patience * 1000)
                if ready:
                    self._handle(dict(ready), restore_raw)
                else:
                    self._link.waited()
        finally:
            for sink in self._sinks.values():
                sink.close()

        return self._text

    def _unwritten(self) -> bool:
        return any(sink.pending for sink in self._sinks.values())

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._signals.reader, select.POLLIN)
        if self._text is None:
            wanted = select.POLLIN | (select.POLLOUT if self._session.outgoing else 0)
            poll.register(self._link.fileno(), wanted)
            if self._stdin_open and self._session.stdin_room > 1 and not self._session.outgoing:
                poll.register(STDIN, select.POLLIN)

        for sink in self._sinks.values():
            if sink.pending:
                poll.register(sink.descriptor, select.POLLOUT)

        return poll

    def _handle(self, ready: dict[int, int], restore_raw: Any) -> None:  # noqa: ANN401
        if self._signals.reader in ready:
            for number in self._signals.read():
                self._on_signal(number, restore_raw)

        if STDIN in ready:
            self._read_stdin()

        if self._link.fileno() in ready:
            for event in self._link.move():
                self._on_event(event)

        for kind, sink in self._sinks.items():
            if sink.pending and sink.descriptor in ready:
                self._session.grant(kind, self._write(kind, sink))

    def _write(self, kind: Kind, sink: _Sink) -> int:
        try:
            return sink.write()
        except BrokenPipeError:
            if kind is Kind.STDOUT:
                raise

            # Whoever does not want to hear complaints still gets the result.
            count = len(sink.pending)
            sink.pending.clear()
            return count

    def _on_signal(self, number: int, restore_raw: Any) -> None:  # noqa: ANN401
        if number == signal.SIGWINCH:
            if self._escape is not None:
                self._session.send_size(*_size())
        elif number == signal.SIGCONT:
            restore_raw()
        elif number in _SIGNALS:
            self._signals_seen += 1
            # On a terminal they do not come from the keyboard: somebody wants us to end.
            sent_on = self._session.asked and self._escape is None
            if not sent_on or self._signals_seen > _SIGNALS_SENT_ON:
                raise SignalledError(number)

            self._session.send_signal(number)

    def _read_stdin(self) -> None:
        try:
            # One less than there is room for, because a tilde may have been held back.
            data = os.read(STDIN, min(self._session.stdin_room - 1, _READ))
        except OSError:
            # EIO: our terminal is gone, or not ours any more.
            data = b""

        if not data:
            self._stdin_open = False
            self._session.send_eof()
            return

        if self._escape is not None:
            data = self._escape.pass_on(data)
            if self._escape.left:
                raise SignalledError(signal.SIGHUP)

        self._session.send_stdin(data)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Output):
            self._sinks[event.kind].pending += event.data
        elif isinstance(event, StdinClosed):
            self._stdin_open = False
        elif isinstance(event, End):
            self._text = event.text
