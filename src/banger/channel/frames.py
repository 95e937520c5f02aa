"""Frames: kind, length, payload, and the kind again (docs/agent-protocol.md, "Frames")."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

# Of a stream in the agent's hands; it speaks the same version or says so in `health`.
VERSION = 1
MAX_PAYLOAD = 32768 - 6
MAX_JSON = 1 << 20
WINDOW = 1 << 20
# On the kinds that carry JSON: this is not the last piece of it.
MORE = 0x80

# More zeros than the longest frame has bytes, so that whatever was cut short is over, and some for
# the agent to know them by.
RESYNC = bytes(MAX_PAYLOAD + 6 + 64)

_HEADER = 5


class Kind(IntEnum):
    """What a frame is. Below 16 they come from the host, from 16 on from the guest."""

    HELLO = 1
    REQUEST = 2
    STDIN = 3
    EOF = 4
    RESIZE = 5
    SIGNAL = 6
    CREDIT = 7
    WELCOME = 17
    STDOUT = 18
    STDERR = 19
    STDIN_CLOSED = 20
    END = 21
    RESET = 22
    RESUMED = 23


FROM_GUEST = frozenset(
    (
        Kind.CREDIT,
        Kind.WELCOME,
        Kind.STDOUT,
        Kind.STDERR,
        Kind.STDIN_CLOSED,
        Kind.END,
        Kind.END | MORE,
        Kind.RESET,
        Kind.RESUMED,
    )
)


class Frame(NamedTuple):
    """One frame. `kind` may have the bit MORE."""

    kind: int
    payload: bytes


class FrameError(Exception):
    """What was received is no sequence of frames a guest may send."""


def encode(kind: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    mark = bytes((kind,))
    return b"".join((mark, len(payload).to_bytes(4, "big"), payload, mark))


def encode_json(kind: int, text: bytes) -> Iterator[bytes]:
    """The frames that carry a JSON text, which may be longer than one frame."""
    while len(text) > MAX_PAYLOAD:
        yield encode(kind | MORE, text[:MAX_PAYLOAD])
        text = text[MAX_PAYLOAD:]

    yield encode(kind, text)


class Decoder:
    """Takes bytes as they come and gives out the frames they make up. Holds one frame at most."""

    def __init__(self, kinds: frozenset[int] = FROM_GUEST) -> None:
        self._kinds = kinds
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Raises FrameError at the first byte that cannot be part of one."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _HEADER:
                kind = self._buffer[start]
                end = start + _HEADER + int.from_bytes(self._buffer[start + 1 : start + 5], "big")
                if kind not in self._kinds or end - start > _HEADER + MAX_PAYLOAD:
                    raise FrameError(
                        f"a frame begins with {bytes(self._buffer[start : start + 5])!r}"
                    )

                if len(self._buffer) <= end:
                    return

                if self._buffer[end] != kind:
                    raise FrameError(f"a frame of kind {kind} ends with {self._buffer[end]}")

                payload = bytes(self._buffer[start + _HEADER : end])
                start = end + 1
                yield Frame(kind, payload)
        finally:
            del self._buffer[:start]
