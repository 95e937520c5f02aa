"""How a stream into a guest is had."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from banger.api.errors import ErrorCode, TransientError


class GuestStream(Protocol):
    """A connected stream, this process's own until it is closed.

    `aligned` says whether the guest's end expects the beginning of a frame. `fresh` that it was
    made for this use: when it ends before the agent has greeted, nobody has listened at its end.
    """

    connection: socket.socket
    aligned: bool
    fresh: bool

    def close(self, *, aligned: bool = False) -> None:
        """Give the stream back; `aligned` says how it is left. May be called more than once."""


class GuestChannel(Protocol):
    """The ways into one guest. Any number of processes may use them at once."""

    def connect(self, *, reserved: bool = False) -> GuestStream:
        """A stream nobody else uses, without waiting for one; with `reserved` out of those that are
        kept for the daemon.

        Whether the guest listens shows in its answer. Raises TransientError: agent_busy when all
        streams are in use, agent_unreachable when the VM does not run.
        """

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None:
        """Say that nobody has left a frame cut short on `streams` of this guest; all, if None.

        For a guest that was restored from a state in which they were `held`, or all `aligned`.
        Saves the first user of each a moment.
        """

    def aligned(self) -> bool:
        """Whether no stream was left in the middle of a frame since the guest booted."""

    def held(self) -> AbstractContextManager[tuple[int, ...]]:
        """Keep the streams that are free and were left aligned from being used; which those are."""


def unreachable() -> TransientError:
    """The error for a guest that there is no way into."""
    return TransientError(
        ErrorCode.AGENT_UNREACHABLE,
        "there is no way into the guest",
        hint="see whether it runs, and whether this banger started it: banger vm list",
    )
