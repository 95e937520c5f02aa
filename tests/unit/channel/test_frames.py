"""Frames: what is encoded is decoded, however it is cut, and rubbish is noticed and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.channel.frames import (
    FROM_GUEST,
    MAX_PAYLOAD,
    MORE,
    Decoder,
    Frame,
    FrameError,
    Kind,
    encode,
    encode_json,
)

frames = st.lists(st.tuples(st.sampled_from(sorted(FROM_GUEST)), st.binary(max_size=300)))


@given(frames, st.lists(st.integers(1, 400), min_size=1))
def test_frames_survive_being_cut_anywhere(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(kind, payload) for kind, payload in sent)
    decoder, got = Decoder(), list[Frame]()
    while stream:
        cut = cuts[len(got) % len(cuts)]
        got += list(decoder.feed(stream[:cut]))
        stream = stream[cut:]

    assert got == [Frame(*one) for one in sent]


@given(st.lists(st.binary(max_size=200)))
def test_rubbish_is_an_error_or_a_wait_and_is_not_kept(pieces: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                assert frame.kind in FROM_GUEST
    except FrameError:
        return

    assert len(decoder._buffer) <= MAX_PAYLOAD + 6


@pytest.mark.parametrize(
    "bytes_", [b"\x00\x00\x00\x00\x00", b"\x12\x7f\xff\xff\xff", encode(Kind.HELLO, b"x")]
)
def test_frames_no_guest_sends_are_refused(bytes_: bytes) -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(bytes_))


def test_a_frame_that_was_cut_short_and_filled_up_is_refused() -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(encode(Kind.STDOUT, b"content")[:-3] + bytes(3)))


def test_the_longest_frame_is_as_long_as_a_write_of_the_driver() -> None:
    assert len(encode(Kind.STDOUT, bytes(MAX_PAYLOAD))) == 32768


@given(st.integers(0, 3 * MAX_PAYLOAD))
def test_long_texts_take_several_frames(size: int) -> None:
    kinds = frozenset((Kind.REQUEST, Kind.REQUEST | MORE))
    got = list(Decoder(kinds).feed(b"".join(encode_json(Kind.REQUEST, b"x" * size))))

    assert b"".join(frame.payload for frame in got) == b"x" * size
    assert [frame.kind for frame in got][-1] == Kind.REQUEST
    assert all(frame.kind == Kind.REQUEST | MORE for frame in got[:-1])
