"""HTTP over a unix socket: bodies in any pieces, daemons that vanish, and what is no daemon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import ErrorCode, OutcomeUnknown, PermanentError, TransientError
from banger.client.transport import BodyDecoder, Transport

CHUNKED = {"transfer-encoding": "chunked"}


def chunk(pieces: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[Path]:
    """Something on a socket that reads one request's head, says `answer` and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        thread.join()
        listener.close()


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=6),
    st.lists(st.integers(0, 400), max_size=8),
    st.sampled_from([b"", b";a=b"]),
    st.sampled_from([b"", b"X: y\r\n"]),
)
def test_chunks_are_put_together_wherever_the_network_cuts_them(
    pieces: list[bytes], cuts: list[int], extension: bytes, trailer: bytes
) -> None:
    encoded = chunk(pieces, extension, trailer)
    edges = sorted({0, len(encoded), *(cut for cut in cuts if cut < len(encoded))})
    decoder = BodyDecoder(CHUNKED)
    parts = [decoder.feed(encoded[a:b]) for a, b in pairwise(edges)]
    assert b"".join(parts) == b"".join(pieces)
    assert decoder.done


def test_a_body_of_known_length_ends_by_itself() -> None:
    decoder = BodyDecoder({"content-length": "3"})
    assert decoder.feed(b"ab") == b"ab"
    assert not decoder.done
    assert decoder.feed(b"cd") == b"c"
    assert decoder.done


@pytest.mark.parametrize("headers", [CHUNKED, {"content-length": "3"}])
def test_a_body_that_is_cut_short_is_never_taken_for_a_whole_one(headers: dict[str, str]) -> None:
    with pytest.raises(OutcomeUnknown):
        BodyDecoder(headers).finish()


def test_a_body_without_a_length_ends_with_the_connection(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b"HTTP/1.1 200 OK\r\n\r\nall of it") as path:
        assert Transport(path).request("GET", "/").body == b"all of it"


def test_status_and_headers_are_read_without_regard_to_case(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nBANGER-Version: 7\r\ncontent-LENGTH: 2\r\n\r\nno"
    with answering(tmp_path / "s", answer) as path:
        reply = Transport(path).request("GET", "/")

    assert (reply.status, reply.headers["banger-version"], reply.body) == (404, "7", b"no")


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"],
)
def test_a_daemon_that_goes_away_leaves_the_outcome_unknown(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer) as path, pytest.raises(OutcomeUnknown) as caught:
        Transport(path).request("POST", "/", b"{}")

    assert caught.value.code is ErrorCode.INTERRUPTED


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 zzz\r\n\r\n"])
def test_what_is_no_http_server_is_said_to_be_none(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer) as path, pytest.raises(PermanentError) as caught:
        Transport(path).request("GET", "/")

    assert "not bangerd" in caught.value.message


def test_a_silent_daemon_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(OutcomeUnknown, match="did not answer within"):
            Transport(tmp_path / "s", timeout=0.05).request("GET", "/")


def test_no_socket_and_a_dead_socket_are_both_unreachable(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    for name in ("dead", "missing"):
        with pytest.raises(TransientError) as caught:
            Transport(tmp_path / name).request("GET", "/")

        assert caught.value.code is ErrorCode.DAEMON_UNREACHABLE


def test_a_socket_path_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="unix sockets allow 107"):
        Transport(tmp_path / ("x" * 120)).request("GET", "/")
