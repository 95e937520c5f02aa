"""A request on a stream, and on another when the first one is reset.

A VMM that saves its guest for a snapshot or a fork ends the connections of its vsock, also where
the guest goes on (docs/agent-protocol.md, "Resets").
"""

from __future__ import annotations

import time

from banger.api.errors import OutcomeUnknown, TransientError
from banger.channel.base import GuestChannel, GuestStream
from banger.channel.exchange import (
    REFUSED_SECONDS,
    connect_patiently,
    exchange,
    greeting_deadline,
    silent,
)
from banger.channel.session import Event, Session

# The agent keeps a program as long: KEEP_SECONDS in guest/agent/resuming.py.
RESUME_SECONDS = 60.0
# A reset is not told to the host's end before something is sent.
_PROBE_SECONDS = 2.0


class Link:
    """`session` on a stream of `channel`'s, which it closes.

    It may wait until `deadline`, on the monotonic clock, for the agent's greeting.
    """

    def __init__(
        self, channel: GuestChannel, stream: GuestStream, session: Session, deadline: float
    ) -> None:
        self._channel = channel
        self._stream = stream
        self._session = session
        self._deadline = greeting_deadline(stream, deadline)
        self._loss: OutcomeUnknown | None = None

    def fileno(self) -> int:
        """The descriptor to poll, which may be another after `move`."""
        return self._stream.connection.fileno()

    def patience(self) -> float | None:
        """For how many seconds nothing may happen until `waited` has to be called."""
        if not self._session.welcomed:
            return max(0.0, self._deadline - time.monotonic())

        return _PROBE_SECONDS if self._stream.fresh else None

    def waited(self) -> None:
        """Nothing has happened. Raises TransientError(guest_timeout) if it had to."""
        if self._session.welcomed:
            self._session.probe()
        else:
            raise self._loss or silent()

    def move(self) -> list[Event]:
        """Send and receive what can be without waiting: see `exchange`."""
        try:
            events = exchange(self._stream.connection, self._session)
        except OutcomeUnknown as error:
            self._carry_on(error)
            return []

        if self._session.welcomed:
            self._loss = None

        return events

    def close(self, *, aligned: bool) -> None:
        """As `GuestStream.close`."""
        self._stream.close(aligned=aligned)

    def _carry_on(self, error: OutcomeUnknown) -> None:
        if not self._session.resumable:
            raise self._loss or error

        if self._loss is None:
            self._loss = error
            self._deadline = time.monotonic() + RESUME_SECONDS

        if time.monotonic() >= self._deadline:
            raise self._loss

        # A guest that ends every stream does not keep us busy.
        time.sleep(REFUSED_SECONDS)
        self._stream.close()
        try:
            self._stream = connect_patiently(self._channel, self._deadline)
        except TransientError:
            raise self._loss from None

        self._session.resume()
