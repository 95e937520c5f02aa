"""One way in from the host: connections one after the other, each with one request."""

from __future__ import annotations

import posix as os
import select

from banger.guest.agent.system import describe
from banger.guest.agent.text import to_json
from banger.guest.agent.wire import (
    END,
    FROM_HOST,
    HELLO,
    MAX_JSON,
    MAX_PAYLOAD,
    MORE,
    REQUEST,
    RESET,
    RESYNC_ZEROS,
    WELCOME,
    AgentError,
    frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from banger.guest.agent.main import Agent
    from banger.guest.agent.process import Process
    from banger.guest.agent.waiting import Waiting
    from banger.guest.agent.wire import Body

BACKLOG = 2 * 32768
VANISH_SECONDS = 1.0
# So long hosts wait for a greeting.
APPEAR_SECONDS = 30.0
# asm-generic/errno.h: ECONNRESET, and ENOTCONN where a vsock(7) was reset. A peer that closes its
# end of one is an end of input instead.
RESETS = (104, 107)
READ_BUFFER = bytearray(16 * 4096)
# The driver gives out one of its 4 KiB buffers for each element.
READ_VIEWS = [memoryview(READ_BUFFER)[at : at + 4096] for at in range(0, 16 * 4096, 4096)]


class Port:
    """One connection at a time from the host, and the one request it carries.

    The host may leave and another one come without a trace of it in between. What the protocol
    does about that is in docs/agent-protocol.md, "Connections". A `lasting` port is a device, which
    outlives its connections.
    """

    def __init__(self, agent: Agent, fd: int, *, lasting: bool) -> None:
        self.agent = agent
        self.fd = fd
        self.lasting = lasting
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.request = bytearray()
        self.stream: Process | Waiting | None = None
        self.program: Process | None = None
        self.greeted = False
        self.lost = False
        self.vanished = False
        self.seen = False
        self.doubts = 0
        self.frames = 0
        self.stop_doubting: Callable[[], None] | None = None
        agent.loop.add(fd, self.on_event)

    def on_event(self, events: int) -> None:
        if self.vanished and not events & select.EPOLLHUP:
            # In case it was not gone but slow to appear.
            self.vanished = False
            self.send(RESET)

        self.flush()
        self.receive()
        if self.stream is not None:
            self.stream.advance()

    def receive(self) -> None:
        while self.fd >= 0:
            try:
                count = os.readv(self.fd, READ_VIEWS)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in RESETS and not self.lasting:
                    self.sever()

                count = 0

            if count == 0:
                self.doubt()
                return

            self.inbox += READ_BUFFER[:count]
            self.parse()

    def doubt(self) -> None:
        """The end of the input. Of a device that is a hint only.

        Its driver hears of connections by another queue than that of their data, so a new one's
        first frames may have been read before it seems to exist.
        """
        if not self.lasting:
            self.abandon()
            self.agent.loop.close(self.fd)
            self.fd = -1
        elif self.greeted and self.stop_doubting is None:
            self.stop_doubting = self.agent.loop.after(VANISH_SECONDS, self.decide)

    def sever(self) -> None:
        """The connection was reset: its host may be there still, and ask for its program."""
        program = self.program
        if program is not None and self.agent.kept.reset(program):
            self.part_with(program)
            program.let_go()

    def part_with(self, program: Process) -> None:
        self.program = None
        if self.stream is program:
            self.stream = None

    def decide(self) -> None:
        """A connection that was there is gone; one that was not yet may be about to appear."""
        self.stop_doubting = None
        poll = select.poll()
        poll.register(self.fd, 0)
        if not any(events & select.POLLHUP for _, events in poll.poll(0)):
            return

        self.doubts += 1
        if not self.seen and self.doubts * VANISH_SECONDS < APPEAR_SECONDS:
            self.doubt()
            return

        self.vanished = True
        self.abandon()

    def abandon(self) -> None:
        """The peer is gone: end what it asked for and forget what was meant for it."""
        if self.stream is not None:
            stream, self.stream = self.stream, None
            stream.abandon()

        if self.program is not None:
            self.agent.kept.forget(self.program)
            self.program = None

        if self.stop_doubting is not None:
            self.stop_doubting()
            self.stop_doubting = None

        self.outbox.clear()
        self.request.clear()
        self.greeted = False

    def parse(self) -> None:
        while True:
            if self.lost and not self.resync():
                return

            if self.inbox[:1] == b"\0":
                self.inbox = self.inbox.lstrip(b"\0")

            if len(self.inbox) < 5:
                return

            kind, end = self.inbox[0], 5 + int.from_bytes(self.inbox[1:5], "big")
            if kind not in FROM_HOST or end > 5 + MAX_PAYLOAD:
                self.lose()
            elif len(self.inbox) <= end:
                return
            elif self.inbox[end] != kind:
                # Its content is somebody's data: what looks like a greeting in there is none.
                del self.inbox[: end + 1]
                self.lose()
            else:
                payload = bytes(self.inbox[5:end])
                del self.inbox[: end + 1]
                self.dispatch(kind, payload)

    def lose(self) -> None:
        """Where the next frame begins is unknown, or the host is not one of ours."""
        self.abandon()
        self.lost = True

    def resync(self) -> bool:
        start = self.inbox.find(RESYNC_ZEROS)
        if start < 0:
            del self.inbox[: max(0, len(self.inbox) - len(RESYNC_ZEROS) + 1)]
            return False

        del self.inbox[:start]
        self.lost = False
        return True

    def dispatch(self, kind: int, payload: bytes) -> None:
        if kind == HELLO:
            self.abandon()
            self.greeted = True
            self.vanished = False
            self.seen = False
            self.doubts = 0
            self.frames = 0
            self.send(WELCOME, payload)
        elif self.greeted:
            self.frames += 1
            self.accept(kind, payload)

    def accept(self, kind: int, payload: bytes) -> None:
        if self.stream is not None:
            self.stream.on_frame(kind, payload)
        elif kind in (REQUEST, REQUEST | MORE):
            self.request += payload
            if len(self.request) > MAX_JSON:
                self.finish(AgentError("bad_request", "the request is too long").body())
            elif kind == REQUEST:
                self.begin(self.request.decode("utf-8", "replace"))

    def begin(self, text: str) -> None:
        self.request.clear()
        try:
            body = self.agent.serve(self, text)
        except AgentError as error:
            body = error.body()
        except OSError as error:
            body = AgentError("failed", describe(error)).body()

        if body is not None:
            self.finish(body)

    def finish(self, body: Body) -> None:
        """Answer the request. Whatever else the host still sends for it is ignored."""
        self.stream = None
        self.greeted = False
        text = to_json({**body, "frames": self.frames}).encode()
        while len(text) > MAX_PAYLOAD:
            self.send(END | MORE, text[:MAX_PAYLOAD])
            text = text[MAX_PAYLOAD:]

        self.send(END, text)

    def has_room(self) -> bool:
        return len(self.outbox) < BACKLOG

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.outbox += frame(kind, payload)
        self.flush()

    def flush(self) -> None:
        while self.outbox and self.fd >= 0:
            try:
                count = os.write(self.fd, self.outbox)
            except BlockingIOError:
                return
            except OSError:
                # Reading will tell that the peer is gone.
                self.outbox.clear()
                return

            self.seen = True
            del self.outbox[:count]
