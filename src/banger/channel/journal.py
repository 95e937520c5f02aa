"""What was sent to an agent and may not have arrived, should it have to be sent again."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from banger.channel.frames import FrameError


class _Sent(NamedTuple):
    frame: bytes
    # Of standard input, how much was sent with its end; 0 if it carries something else.
    end: int


class Journal:
    """Frames in the order in which they were sent, from the first the agent may not have taken on.

    `input` is how many bytes of standard input were in all that was ever added.
    """

    def __init__(self) -> None:
        self.input = 0
        self._sent: deque[_Sent] = deque()
        self._forgotten = 0
        self._consumed = 0

    def add(self, frame: bytes, data: int = 0) -> None:
        """`frame` was sent, with `data` bytes of standard input."""
        self.input += data
        self._sent.append(_Sent(frame, self.input if data else 0))

    def consumed(self, count: int) -> None:
        """So many more bytes of standard input were: the frames they came in were taken."""
        self._consumed += count
        taken = 0
        for number, sent in enumerate(self._sent, start=1):
            if sent.end > self._consumed:
                break

            if sent.end:
                taken = number

        for _ in range(taken):
            self._sent.popleft()

        self._forgotten += taken

    def after(self, taken: int) -> list[bytes]:
        """What the agent lacks that has taken so many frames.

        Raises FrameError if it cannot have taken that many.
        """
        known = taken - self._forgotten
        if not 0 <= known <= len(self._sent):
            raise FrameError("the guest has taken what was not sent")

        return [sent.frame for sent in list(self._sent)[known:]]
