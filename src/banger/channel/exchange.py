"""What all who drive a `Session` share: getting a stream, greeting on it again, moving bytes."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown, TransientError
from banger.channel.base import GuestChannel, GuestStream
from banger.channel.frames import FrameError
from banger.channel.requests import Request, nonsense, request_text, stream_lost
from banger.channel.session import Event, Session

GREETING_SECONDS = 30.0
ATTEMPT_SECONDS = 5.0
_BUSY_SECONDS = 0.02
# How long to wait for an agent that does not listen yet until it is asked again.
REFUSED_SECONDS = 0.02
_RECEIVE = 1 << 18


def session_on(stream: GuestStream, request: Request, *, token: str = "") -> Session:
    """What sends `request` on `stream`."""
    text = request_text(request)
    return Session(text, aligned=stream.aligned, fresh=stream.fresh, token=token)


def greeting_deadline(stream: GuestStream, deadline: float) -> float:
    """Until when to wait for the agent's greeting on `stream` if `deadline` is all there is."""
    return deadline if stream.aligned else min(deadline, time.monotonic() + ATTEMPT_SECONDS)


def pause_to_greet_again(
    error: BangerError, stream: GuestStream, session: Session, deadline: float
) -> float:
    """In how many seconds to greet again when a greeting has come to `error`.

    That is when nothing was asked yet: a rebooting guest has lost the greeting, or the agent does
    not listen yet. Raises `error` otherwise, or what it means after the `deadline`.
    """
    refused = isinstance(error, OutcomeUnknown)
    unasked = not session.asked and (stream.fresh if refused else not stream.aligned)
    over = time.monotonic() >= deadline
    if not unasked or (over and not refused):
        raise error

    if over:
        raise silent()

    return REFUSED_SECONDS if refused else 0.0


def connect_patiently(channel: GuestChannel, deadline: float) -> GuestStream:
    """A stream into the guest, until `deadline` on the monotonic clock when all are in use."""
    while True:
        try:
            return channel.connect()
        except TransientError as error:
            if error.code is not ErrorCode.AGENT_BUSY or time.monotonic() >= deadline:
                raise

        time.sleep(_BUSY_SECONDS)


def silent() -> TransientError:
    """The error for an agent that does not answer."""
    return TransientError(
        ErrorCode.GUEST_TIMEOUT,
        "the guest's agent does not answer",
        hint="see whether the guest is well: banger vm logs, banger vm stats",
    )


def exchange(connection: socket.socket, session: Session) -> list[Event]:
    """Send and receive what can be without waiting; returns what the guest said.

    Raises PermanentError(agent_protocol) and OutcomeUnknown(stream_lost).
    """
    try:
        with suppress(BlockingIOError):
            if session.outgoing:
                del session.outgoing[: connection.send(session.outgoing)]

        return received(session, connection.recv(_RECEIVE))
    except BlockingIOError:
        return []
    except OSError as error:
        raise stream_lost(error.strerror or str(error)) from None


def received(session: Session, data: bytes) -> list[Event]:
    """What `data`, which was read from the guest, means; raises as `exchange` does."""
    if not data:
        raise stream_lost("the VM has ended, was saved or went back to a snapshot")

    try:
        return session.receive(data)
    except FrameError as error:
        raise nonsense(str(error)) from None
    except ConnectionResetError as error:
        raise stream_lost(str(error)) from None
