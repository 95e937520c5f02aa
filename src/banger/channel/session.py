"""One request on one stream: what to send and what was received mean, without input or output.

A driver moves bytes between a socket and a `Session`: what `outgoing` holds goes out, and what
comes in is given to `receive`, which says what happened.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from banger.channel.frames import (
    MAX_JSON,
    MAX_PAYLOAD,
    MORE,
    RESYNC,
    WINDOW,
    Decoder,
    Frame,
    FrameError,
    Kind,
    encode,
    encode_json,
)
from banger.channel.journal import Journal
from banger.channel.requests import Resume, request_text

# What an earlier request on the same stream may have left in queues and buffers.
MAX_LEFTOVERS = 16 << 20


class Output(NamedTuple):
    """The guest wrote `data`; `grant` it when it has been dealt with. `kind` says to which."""

    kind: Kind
    data: bytes


class End(NamedTuple):
    """The answer, a JSON text. Nothing comes after it."""

    text: bytes


class StdinClosed(NamedTuple):
    """Nobody in the guest reads standard input any more."""


Event = Output | End | StdinClosed


class _Frame(NamedTuple):
    data: bytes
    # What the agent has to have taken all of, also after a reset; and how much standard input.
    counted: bool = True
    input: int = 0


class Session:
    """The host's side of one request. `aligned` says that the agent expects a frame next.

    Otherwise whoever used the stream before may have left a frame cut short, and nothing but what
    ends it is sent until the agent has answered. Standard input waits for that on a `fresh` stream,
    too: its other end may not listen yet, and the request is asked again then. A request with a
    `token` can be carried on on another stream: `resume`.

    `receive` raises FrameError for what no agent sends, and ConnectionResetError when the agent has
    begun anew and knows nothing of the request.
    """

    def __init__(
        self, request: bytes, *, aligned: bool, fresh: bool = False, token: str = ""
    ) -> None:
        self._token = token
        self._fresh = fresh
        self._held: list[_Frame] = []
        self._frames_sent = 0
        self._journal = Journal()
        self._window = WINDOW
        self._received = {Kind.STDOUT: 0, Kind.STDERR: 0}
        self._granted = {Kind.STDOUT: WINDOW, Kind.STDERR: WINDOW}
        self._owed = {Kind.STDOUT: 0, Kind.STDERR: 0}
        self.asked = False
        self.ended = False
        self._greet()
        if not aligned:
            self.outgoing[:0] = RESYNC

        self._hold = not aligned
        for frame in encode_json(Kind.REQUEST, request):
            self._send(_Frame(frame, counted=False))

    def _greet(self) -> None:
        """What a stream begins with."""
        nonce = os.urandom(16).hex().encode()
        self._welcome = encode(Kind.WELCOME, nonce)
        self._decoder = Decoder()
        self._greeting = bytearray()
        self._skipped = 0
        self._answer = bytearray()
        self._resuming = False
        self.welcomed = False
        self.outgoing = bytearray(encode(Kind.HELLO, nonce))

    @property
    def resumable(self) -> bool:
        """Whether, should its stream end now, the agent may have kept what was asked for."""
        return bool(self._token) and self.asked and not self.ended

    def resume(self) -> None:
        """Ask on another stream, an aligned one, that the request be carried on there."""
        self._greet()
        self._resuming = self._hold = True
        # What they would grant is in the request.
        self._held = [frame for frame in self._held if frame.counted]
        request = Resume(
            token=self._token,
            stdout=self._received[Kind.STDOUT],
            stderr=self._received[Kind.STDERR],
            stdout_credit=self._granted[Kind.STDOUT],
            stderr_credit=self._granted[Kind.STDERR],
        )
        for frame in encode_json(Kind.REQUEST, request_text(request)):
            self.outgoing += frame

    def probe(self) -> None:
        """Say nothing, which is heard only where the stream has an end still."""
        if not self.outgoing:
            self.outgoing += b"\0"

    @property
    def stdin_room(self) -> int:
        """How many bytes of standard input may be sent now."""
        waits = self._hold or (self._fresh and not self.welcomed)
        return 0 if waits or self.ended else self._window

    def send_stdin(self, data: bytes) -> None:
        """Send standard input, at most `stdin_room` bytes."""
        if len(data) > self._window:
            raise ValueError("more than the agent has room for")

        self._window -= len(data)
        for start in range(0, len(data), MAX_PAYLOAD):
            piece = data[start : start + MAX_PAYLOAD]
            self._send(_Frame(encode(Kind.STDIN, piece), input=len(piece)))

    def send_eof(self) -> None:
        """Standard input ends here."""
        self._send(_Frame(encode(Kind.EOF)))

    def send_signal(self, number: int) -> None:
        """Signal the program's process group."""
        self._send(_Frame(encode(Kind.SIGNAL, bytes((number,)))))

    def send_size(self, rows: int, columns: int) -> None:
        """Tell the program's terminal its size."""
        sizes = (min(max(size, 0), 0xFFFF) for size in (rows, columns))
        payload = b"".join(size.to_bytes(2, "big") for size in sizes)
        self._send(_Frame(encode(Kind.RESIZE, payload)))

    def grant(self, kind: Kind, count: int) -> None:
        """`count` bytes of an output have been dealt with, so as many more may come."""
        self._owed[kind] += count
        if self._owed[kind] >= WINDOW // 4 and not self.ended:
            self._granted[kind] += self._owed[kind]
            payload = bytes((kind,)) + self._owed[kind].to_bytes(4, "big")
            self._send(_Frame(encode(Kind.CREDIT, payload), counted=False))
            self._owed[kind] = 0

    def receive(self, data: bytes) -> list[Event]:
        """What the bytes the guest sent mean."""
        if not self.welcomed:
            data = self._skip_to_welcome(data)

        events = [self._event(frame) for frame in self._decoder.feed(data)]
        return [event for event in events if event is not None]

    def aligned(self, consumed: int) -> bool:
        """Whether the agent has taken whole frames only, if it says it took `consumed` of them."""
        return self.ended and not self.outgoing and consumed == self._frames_sent

    def _send(self, frame: _Frame) -> None:
        if self._hold:
            self._held.append(frame)
            return

        self._frames_sent += 1
        self.outgoing += frame.data
        if self._token and frame.counted:
            self._journal.add(frame.data, frame.input)

    def _release(self) -> None:
        self._hold = False
        held, self._held = self._held, []
        for frame in held:
            self._send(frame)

    def _skip_to_welcome(self, data: bytes) -> bytes:
        """Only the answer with our own number is ours; before it may be what others left."""
        self._greeting += data
        start = self._greeting.find(self._welcome)
        if start < 0:
            passed = max(0, len(self._greeting) - len(self._welcome) + 1)
            del self._greeting[:passed]
            self._skipped += passed
            if self._skipped > MAX_LEFTOVERS:
                raise FrameError("no greeting in all that the guest sent")

            return b""

        rest = bytes(self._greeting[start + len(self._welcome) :])
        self._greeting.clear()
        self.welcomed = self.asked = True
        if not self._resuming:
            self._release()

        return rest

    def _event(self, frame: Frame) -> Event | None:
        kind, payload = frame
        if self.ended:
            raise FrameError("the guest goes on after the end")

        if kind in (Kind.STDOUT, Kind.STDERR):
            return self._output(Kind(kind), payload)

        if kind in (Kind.END, Kind.END | MORE):
            return self._end(kind, payload)

        if kind == Kind.CREDIT:
            self._credit(payload)
            return None

        if kind == Kind.STDIN_CLOSED:
            return StdinClosed()

        if kind == Kind.RESUMED:
            self._resumed(payload)
            return None

        if kind == Kind.RESET:
            self._token = ""
            raise ConnectionResetError("the guest's agent has begun anew")

        raise FrameError("the guest greets twice")

    def _output(self, kind: Kind, payload: bytes) -> Output:
        self._received[kind] += len(payload)
        self._granted[kind] -= len(payload)
        if self._granted[kind] < 0:
            raise FrameError("the guest sends more than it may")

        return Output(kind, payload)

    def _end(self, kind: int, payload: bytes) -> End | None:
        self._answer += payload
        if len(self._answer) > MAX_JSON + MAX_PAYLOAD:
            raise FrameError("the guest's answer is too long")

        if kind & MORE:
            return None

        self.ended = True
        return End(bytes(self._answer))

    def _credit(self, payload: bytes) -> None:
        count = int.from_bytes(payload[1:], "big")
        self._window += count
        if len(payload) != 5 or payload[0] != Kind.STDIN or self._window > WINDOW:
            raise FrameError("the guest grants what it has not got")

        self._journal.consumed(count)

    def _resumed(self, payload: bytes) -> None:
        """The agent says how many frames it has taken, and how much input it has granted in all."""
        taken, granted = (int.from_bytes(part, "big") for part in (payload[:4], payload[4:]))
        window = WINDOW + granted - self._journal.input
        if len(payload) != 12 or not self._resuming or not self._window <= window <= WINDOW:
            raise FrameError("the guest resumes what it was not asked for")

        self._resuming = False
        for frame in self._journal.after(taken):
            self.outgoing += frame

        self._journal.consumed(window - self._window)
        self._window = window
        self._release()
