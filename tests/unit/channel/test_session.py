"""One request on a stream: greeting, credit, answers; and nothing believed that is not checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.channel import session as sessions
from banger.channel.frames import (
    FROM_GUEST,
    MAX_JSON,
    MAX_PAYLOAD,
    MORE,
    RESYNC,
    WINDOW,
    Decoder,
    FrameError,
    Kind,
    encode,
)
from banger.channel.session import End, Output, Session, StdinClosed

FROM_HOST = frozenset(kind for kind in Kind if kind < Kind.WELCOME)


def greeting(session: Session) -> bytes:
    """The agent's answer to the greeting that is on its way out."""
    hello = next(iter(Decoder(FROM_HOST).feed(bytes(session.outgoing).lstrip(b"\0"))))
    assert hello.kind == Kind.HELLO
    return encode(Kind.WELCOME, hello.payload)


def greeted() -> Session:
    session = Session(b"{}", aligned=True)
    welcome = greeting(session)
    session.outgoing.clear()
    session.receive(welcome)
    return session


def feed(session: Session, pieces: list[bytes]) -> None:
    for piece in pieces:
        session.receive(piece)


def sent(session: Session) -> list[tuple[int, bytes]]:
    out = [tuple(frame) for frame in Decoder(FROM_HOST).feed(bytes(session.outgoing))]
    session.outgoing.clear()
    return out  # type: ignore[return-value]


def test_on_an_aligned_stream_the_request_follows_at_once() -> None:
    session = Session(b'{"request":"health"}', aligned=True)

    assert [kind for kind, _ in sent(session)] == [Kind.HELLO, Kind.REQUEST]


def test_on_any_other_stream_nothing_is_asked_before_the_greeting_is_answered() -> None:
    session = Session(b"{}", aligned=False)

    assert session.outgoing.startswith(RESYNC)
    assert len(session.outgoing) - len(RESYNC) == len(encode(Kind.HELLO, bytes(32)))
    assert session.stdin_room == 0
    session.send_signal(15)
    welcome = greeting(session)
    session.outgoing.clear()
    assert session.receive(welcome) == []
    assert sent(session) == [(Kind.REQUEST, b"{}"), (Kind.SIGNAL, b"\x0f")]


@given(st.binary(max_size=500), st.integers(1, 50))
def test_what_others_left_on_the_stream_is_passed_over(leftovers: bytes, cut: int) -> None:
    session = Session(b"{}", aligned=True)
    stream = leftovers + greeting(session) + encode(Kind.STDOUT, b"mine") + encode(Kind.END, b"{}")
    events = []
    for start in range(0, len(stream), cut):
        events += session.receive(stream[start : start + cut])

    assert events == [Output(Kind.STDOUT, b"mine"), End(b"{}")]


def test_a_greeting_is_not_looked_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_LEFTOVERS", 100_000)
    session = Session(b"{}", aligned=True)
    with pytest.raises(FrameError):
        feed(session, [bytes(1000)] * 200)


@given(st.lists(st.tuples(st.sampled_from(sorted(FROM_GUEST)), st.binary(max_size=100))))
def test_whatever_a_guest_sends_the_session_stays_sane(frames: list[tuple[int, bytes]]) -> None:
    session = greeted()
    try:
        for kind, payload in frames:
            session.receive(encode(kind, payload))
            assert 0 <= session.stdin_room <= WINDOW
    except (FrameError, ConnectionResetError):
        return


def test_output_beyond_the_credit_is_refused() -> None:
    session = greeted()
    for _ in range(WINDOW // MAX_PAYLOAD):
        session.receive(encode(Kind.STDOUT, bytes(MAX_PAYLOAD)))

    with pytest.raises(FrameError):
        session.receive(encode(Kind.STDOUT, bytes(MAX_PAYLOAD)))


def test_credit_is_given_in_large_pieces_for_each_output() -> None:
    session = greeted()
    session.receive(encode(Kind.STDERR, bytes(1000)))
    session.grant(Kind.STDERR, 1000)
    assert sent(session) == []
    session.grant(Kind.STDERR, WINDOW // 4)
    payload = bytes((Kind.STDERR,)) + (1000 + WINDOW // 4).to_bytes(4, "big")
    assert sent(session) == [(Kind.CREDIT, payload)]


def test_input_stays_within_what_the_agent_grants() -> None:
    session = greeted()
    session.send_stdin(bytes(WINDOW))

    assert session.stdin_room == 0
    with pytest.raises(ValueError, match="room"):
        session.send_stdin(b"x")

    session.receive(encode(Kind.CREDIT, bytes((Kind.STDIN, 0, 0, 0, 7))))
    assert session.stdin_room == 7
    with pytest.raises(FrameError):
        session.receive(encode(Kind.CREDIT, bytes((Kind.STDIN,)) + WINDOW.to_bytes(4, "big")))


def test_an_answer_may_come_in_pieces_but_not_for_ever() -> None:
    session = greeted()
    pieces = encode(Kind.END | MORE, b'{"a":') + encode(Kind.END, b"1}")
    assert session.receive(pieces) == [End(b'{"a":1}')]

    session = greeted()
    endless = [encode(Kind.END | MORE, bytes(MAX_PAYLOAD))] * (MAX_JSON // MAX_PAYLOAD + 3)
    with pytest.raises(FrameError):
        feed(session, endless)


def test_nothing_comes_after_the_end() -> None:
    session = greeted()
    with pytest.raises(FrameError):
        session.receive(encode(Kind.END, b"{}") + encode(Kind.STDOUT, b"late"))


def test_an_agent_that_begins_anew_has_lost_the_request() -> None:
    session = greeted()
    assert session.receive(encode(Kind.STDIN_CLOSED)) == [StdinClosed()]
    with pytest.raises(ConnectionResetError):
        session.receive(encode(Kind.RESET))


def test_a_stream_is_left_aligned_when_the_agent_took_all_that_was_sent() -> None:
    session = greeted()
    session.send_eof()
    assert not session.aligned(2)
    session.outgoing.clear()
    session.receive(encode(Kind.END, b"{}"))

    assert session.aligned(2)
    assert not session.aligned(1)


def resuming(*, stdin: bytes = b"") -> Session:
    """A session that has lost its stream and was greeted on another."""
    session = Session(b"{}", aligned=True, fresh=True, token="t" * 32)
    assert session.stdin_room == 0
    welcome = greeting(session)
    session.outgoing.clear()
    session.receive(welcome + encode(Kind.STDOUT, b"12345"))
    session.send_stdin(stdin)
    session.resume()
    welcome = greeting(session)
    session.outgoing.clear()
    session.receive(welcome)
    return session


def resumed(taken: int, granted: int = 0) -> bytes:
    return encode(Kind.RESUMED, taken.to_bytes(4, "big") + granted.to_bytes(8, "big"))


def test_what_the_agent_has_not_taken_is_sent_again_before_anything_else() -> None:
    session = resuming(stdin=b"x" * MAX_PAYLOAD + b"y")
    session.send_signal(15)
    assert (session.stdin_room, sent(session)) == (0, [])

    session.receive(resumed(1))

    assert sent(session) == [(Kind.STDIN, b"y"), (Kind.SIGNAL, b"\x0f")]
    assert session.stdin_room == WINDOW - MAX_PAYLOAD - 1


def test_credit_that_was_lost_is_had_by_what_is_resumed() -> None:
    session = resuming(stdin=b"x" * 100)
    session.receive(resumed(1, granted=60))
    assert session.stdin_room == WINDOW - 40
    assert sent(session) == []


@pytest.mark.parametrize(
    "nonsense",
    [resumed(2), resumed(0, granted=101), encode(Kind.RESUMED, b"short"), resumed(0) + resumed(0)],
)
def test_what_was_never_sent_cannot_have_been_taken(nonsense: bytes) -> None:
    session = resuming(stdin=b"x" * 100)
    with pytest.raises(FrameError):
        session.receive(nonsense)


def test_nobody_resumes_what_was_not_lost() -> None:
    with pytest.raises(FrameError):
        greeted().receive(resumed(0))


def test_an_agent_that_knows_of_nothing_is_not_asked_again() -> None:
    session = resuming()
    assert session.resumable
    with pytest.raises(ConnectionResetError):
        session.receive(encode(Kind.RESET))

    assert not session.resumable
