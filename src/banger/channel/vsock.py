"""Streams over a VM's vsock, which Firecracker offers as one unix socket in the run directory.

A connection that begins with `CONNECT <port>` is a stream to that port of the guest, where the
agent listens. It begins with `OK <number>` once the guest has taken it; else Firecracker ends it
(docs/vsock.md of Firecracker). There are as many as are asked for, and each is used once.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.api.errors import ErrorCode, TransientError
from banger.channel.base import unreachable

SOCKET = "vsock.sock"
"""Its name in the run directory."""

# Where the agent listens: VSOCK_PORT in guest/agent/main.py.
AGENT_PORT = 1024


class VsockStream:
    """A connection of our own: see `GuestStream`."""

    aligned = True
    fresh = True

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def close(self, *, aligned: bool = False) -> None:
        self.connection.close()


class VsockChannel:
    """The vsock of the VM whose VMM has its sockets in `run_dir`: see `GuestChannel`."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / SOCKET

    def connect(self, *, reserved: bool = False) -> VsockStream:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(str(self._path))
            # The `OK` is passed over as all that comes before the agent's greeting is.
            connection.send(f"CONNECT {AGENT_PORT}\n".encode())
        except OSError as error:
            connection.close()
            if error.errno == errno.EAGAIN:
                raise TransientError(
                    ErrorCode.AGENT_BUSY, "the VMM is slow to take streams into the guest"
                ) from None

            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.EPIPE, errno.ECONNRESET):
                raise unreachable() from None

            raise

        return VsockStream(connection)

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None:
        """Nothing: no stream has been used before."""

    def aligned(self) -> bool:
        return True

    @contextmanager
    def held(self) -> Iterator[tuple[int, ...]]:
        """No streams are left over: those that are open end for the guest when it is restored."""
        yield ()
