"""Connections that follow each other on one port, with nothing to tell them apart but the bytes.

A device's driver may hear of the end of one connection and the beginning of the next so late that
the agent sees one stream of bytes. Here it always does.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.channel.frames import MAX_PAYLOAD, Decoder, Frame, Kind, encode
from banger.channel.session import End, Output, Session
from banger.guest.agent.loop import Loop
from banger.guest.agent.main import Agent
from banger.guest.agent.port import APPEAR_SECONDS, VANISH_SECONDS, Port
from banger.guest.agent.process import Process


class Host:
    """The host's end of one lasting port, and the agent that serves it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.socket, ours = socket.socketpair()
        self.socket.setblocking(False)
        self.port = Port(Agent(self.loop, confined=True), ours.detach(), lasting=True)

    def close(self) -> None:
        self.socket.close()
        self.port.abandon()
        for descriptor in list(self.loop.handlers):
            self.loop.close(descriptor)

        self.loop.epoll.close()

    def say(self, data: bytes) -> None:
        """Send, while the agent works."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                self.work()

        self.work()

    def work(self, seconds: float = 0.0) -> None:
        for descriptor, events in self.loop.epoll.poll(seconds):
            handler = self.loop.handlers.get(descriptor)
            if handler is not None:
                handler(events)

    def hear(self) -> bytes:
        self.work(0.01)
        try:
            return self.socket.recv(1 << 20)
        except BlockingIOError:
            return b""

    def ask(self, request: bytes, *, aligned: bool) -> tuple[bytes, bytes]:
        """What the request's program wrote, and the answer."""
        session = Session(request, aligned=aligned)
        written = b""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.say(bytes(session.outgoing))
            session.outgoing.clear()
            for event in session.receive(self.hear()):
                if isinstance(event, Output):
                    written += event.data
                elif isinstance(event, End):
                    return written, event.text

        raise AssertionError("no answer")


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


class LateDriver:
    """posix(3) and poll(2) of a device whose connection is not known of before `appear`."""

    def __init__(self, host: Host, patch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.known = False
        patch.setattr("banger.guest.agent.port.os", self)
        patch.setattr("banger.guest.agent.port.select.poll", lambda: self)

    def readv(self, descriptor: int, buffers: list[memoryview]) -> int:
        try:
            return os.readv(descriptor, buffers)
        except BlockingIOError:
            if self.known:
                raise

            return 0

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.known:
            raise BlockingIOError

        return os.write(descriptor, data)

    def register(self, descriptor: int, events: int) -> None:
        """Of a poll object."""

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        return [] if self.known else [(self.host.port.fd, select.POLLHUP)]

    def appear(self) -> None:
        self.known = True
        self.host.port.on_event(select.EPOLLOUT)


@pytest.fixture
def late(host: Host, monkeypatch: pytest.MonkeyPatch) -> LateDriver:
    return LateDriver(host, monkeypatch)


def doubted(host: Host, seconds: float) -> None:
    """Let timers of the next `seconds` elapse, without waiting."""
    for _ in range(int(seconds / VANISH_SECONDS)):
        for timer in host.loop.timers[:]:
            host.loop.timers.remove(timer)
            timer[1]()


ECHO = b'{"request":"exec","argv":["echo","hello"]}'
SLEEP = b'{"request":"exec","argv":["sleep","1000"]}'
CAT = b'{"request":"exec","argv":["cat"]}'


def test_requests_follow_each_other(host: Host) -> None:
    for _ in range(3):
        assert host.ask(ECHO, aligned=True)[0] == b"hello\n"


def test_a_new_greeting_ends_what_runs_for_the_last_one(host: Host) -> None:
    host.say(encode(Kind.HELLO, b"a" * 32) + encode(Kind.REQUEST, SLEEP))
    first = host.port.stream
    assert isinstance(first, Process)
    assert host.ask(ECHO, aligned=True)[0] == b"hello\n"
    deadline = time.monotonic() + 20
    while first.status is None and time.monotonic() < deadline:
        host.work(0.01)

    assert first.status == -1


def test_a_connection_that_appears_long_after_its_first_frames_is_greeted_and_answered(
    host: Host, late: LateDriver
) -> None:
    session = Session(ECHO, aligned=True)
    host.say(bytes(session.outgoing))
    doubted(host, APPEAR_SECONDS - 2 * VANISH_SECONDS)
    assert host.hear() == b""

    late.appear()

    events: list[object] = []
    deadline = time.monotonic() + 20
    while not session.ended and time.monotonic() < deadline:
        events += session.receive(host.hear())

    assert [event.data for event in events if isinstance(event, Output)] == [b"hello\n"]


def test_one_that_never_appears_is_given_up_with_what_it_asked_for(
    host: Host, late: LateDriver
) -> None:
    host.say(encode(Kind.HELLO, b"a" * 32) + encode(Kind.REQUEST, SLEEP))
    assert host.port.stream is not None

    doubted(host, APPEAR_SECONDS)

    assert host.port.stream is None


def test_one_that_was_there_is_given_up_within_a_second(host: Host, late: LateDriver) -> None:
    late.appear()
    host.say(encode(Kind.HELLO, b"a" * 32) + encode(Kind.REQUEST, SLEEP))
    assert host.port.stream is not None

    late.known = False
    host.port.on_event(select.EPOLLHUP)
    doubted(host, VANISH_SECONDS)

    assert host.port.stream is None


stream = encode(Kind.HELLO, b"a" * 32) + encode(Kind.REQUEST, CAT)
stream += encode(Kind.STDIN, b"x" * 5000) + encode(Kind.STDIN, bytes(MAX_PAYLOAD))


@settings(max_examples=40)
@given(st.integers(0, len(stream)))
def test_a_frame_cut_short_anywhere_is_neither_acted_upon_nor_in_the_way(cut: int) -> None:
    host = Host()
    try:
        host.say(stream[:cut])
        whole = [frame for frame in decoded(stream[:cut]) if frame.kind == Kind.STDIN]
        given = sum(len(frame.payload) for frame in whole)
        taken = 0 if host.port.stream is None else fed(host.port.stream)
        assert taken == given
        written, answer = host.ask(ECHO, aligned=False)
    finally:
        host.close()

    assert written == b"hello\n"
    assert b'"code":0' in answer


def decoded(data: bytes) -> list[Frame]:
    return list(Decoder(frozenset(range(1, 8))).feed(data))


def fed(process: Any) -> int:
    return int(process.owed) + len(process.input)


def test_a_request_hidden_in_data_is_not_found_there(host: Host) -> None:
    """What is copied may hold frames. Nobody looks for frames inside of others."""
    marker = f"/tmp/agent-was-tricked-{os.getpid()}"
    hidden = encode(Kind.HELLO, b"b" * 32)
    hidden += encode(Kind.REQUEST, b'{"request":"exec","argv":["touch","%s"]}' % marker.encode())
    payload = (bytes(64) + hidden) * 20
    host.say(encode(Kind.HELLO, b"a" * 32) + encode(Kind.REQUEST, CAT))
    cut_short = encode(Kind.STDIN, payload)[:-50]
    host.say(cut_short)
    assert host.ask(ECHO, aligned=False)[0] == b"hello\n"
    assert not os.path.exists(marker)  # noqa: PTH110


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=400), max_size=10))
def test_rubbish_is_survived(pieces: list[bytes]) -> None:
    host = Host()
    try:
        for piece in pieces:
            host.say(piece)

        assert len(host.port.inbox) < MAX_PAYLOAD + 6 + 65536
        assert host.ask(ECHO, aligned=False)[0] == b"hello\n"
    finally:
        host.close()


requests = st.sampled_from(["exec", "get", "put", "health", "stats", "ports", "freeze", "x"])
field_names = st.sampled_from(
    ["argv", "env", "cwd", "user", "tty", "rows", "timeout", "path", "name", "format", "mode"]
)
field_values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text())


@settings(max_examples=60)
@given(requests, st.dictionaries(field_names, field_values))
def test_any_request_is_answered(name: str, fields: dict[str, object]) -> None:
    from banger.guest.agent.text import to_json

    # Without a program to run, and without a terminal's login shell waiting for keys.
    text = to_json({**fields, "request": name, "argv": ["true"]}).encode()
    host = Host()
    try:
        session = Session(text, aligned=True)
        host.say(bytes(session.outgoing) + encode(Kind.EOF))
        session.outgoing.clear()
        answers: list[End | Output] = []
        deadline = time.monotonic() + 20
        while not answers and time.monotonic() < deadline:
            # To get "/" is to hear all of it before the end.
            events = session.receive(host.hear())
            answers += [event for event in events if isinstance(event, (End, Output))]
    finally:
        host.close()

    assert answers


def test_more_input_than_was_granted_ends_the_request(host: Host) -> None:
    host.say(encode(Kind.HELLO, b"a" * 32) + encode(Kind.REQUEST, SLEEP))
    for _ in range(40):
        host.say(encode(Kind.STDIN, bytes(MAX_PAYLOAD)))

    assert host.port.stream is None
    assert host.ask(ECHO, aligned=False)[0] == b"hello\n"


def test_a_request_without_end_is_refused(host: Host) -> None:
    host.say(encode(Kind.HELLO, b"a" * 32))
    for _ in range(40):
        host.say(encode(Kind.REQUEST | 0x80, b" " * MAX_PAYLOAD))

    assert b"too long" in host.hear()
