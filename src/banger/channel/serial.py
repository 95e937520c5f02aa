"""Streams over a VM's virtio-serial ports, each of which is a unix socket in its run directory.

A port is `agentN.sock`, listened on by the VMM, which takes one connection at a time. Who holds an
flock(2) on `agentN.lock` beside it has the port; the lock ends with its holder, however that ends.
The file says `aligned` while the port is free and was left so: an end in the middle of a frame, by
a crash or otherwise, leaves it empty.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from banger.api.errors import ErrorCode, TransientError
from banger.channel.base import unreachable

# How many ports a VM gets, and how many of them the daemon keeps for itself. A virtio-serial device
# has 31.
PORTS = 16
RESERVED = 2

_ALIGNED = b"aligned\n"


def socket_path(run_dir: Path, number: int) -> Path:
    """The socket of a port; in the guest it is the virtio port `port_name(number)`."""
    return run_dir / f"agent{number}.sock"


def port_name(number: int) -> str:
    return f"banger.agent.{number}"


class SerialStream:
    """A port that is ours: see `GuestStream`."""

    fresh = False

    def __init__(self, connection: socket.socket, lock: int, *, aligned: bool) -> None:
        self.connection = connection
        self.aligned = aligned
        self._lock = lock

    def close(self, *, aligned: bool = False) -> None:
        if self._lock < 0:
            return

        # In this order: whoever takes the port next finds the VMM waiting for it.
        self.connection.close()
        if aligned:
            os.pwrite(self._lock, _ALIGNED, 0)

        os.close(self._lock)
        self._lock = -1


class SerialChannel:
    """The ports of the VM whose VMM has its sockets in `run_dir`: see `GuestChannel`."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def connect(self, *, reserved: bool = False) -> SerialStream:
        numbers = range(RESERVED) if reserved else range(RESERVED, PORTS)
        # So that those who come at the same time do not all try the same one first.
        first = os.urandom(1)[0]
        for number in sorted(
            numbers, key=lambda n: (self._looks_unaligned(n), (n + first) % PORTS)
        ):
            lock = self._lock(number)
            if lock is not None:
                return self._connect(number, lock)

        raise TransientError(
            ErrorCode.AGENT_BUSY,
            f"all {len(numbers)} streams into the guest are in use",
            hint="try again when a command in it has ended, or use: banger vm ssh",
        )

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None:
        for number in range(PORTS) if streams is None else streams:
            lock = self._lock(number)
            if lock is not None:
                os.pwrite(lock, _ALIGNED, 0)
                os.close(lock)

    @contextmanager
    def held(self) -> Iterator[tuple[int, ...]]:
        with ExitStack() as locks:
            held = []
            for number in range(PORTS):
                lock = None if self._looks_unaligned(number) else self._lock(number)
                if lock is None:
                    continue

                locks.callback(os.close, lock)
                if _says_aligned(lock):
                    held.append(number)

            yield tuple(held)

    def aligned(self) -> bool:
        used = (number for number in range(PORTS) if self._lock_path(number).exists())
        return not any(self._looks_unaligned(number) for number in used)

    def _looks_unaligned(self, number: int) -> bool:
        try:
            return self._lock_path(number).stat().st_size == 0
        except OSError:
            return True

    def _lock_path(self, number: int) -> Path:
        return self._run_dir / f"agent{number}.lock"

    def _lock(self, number: int) -> int | None:
        """The open file with the lock on it; None if another has that."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            lock = os.open(self._lock_path(number), flags, 0o600)
        except FileNotFoundError:
            raise unreachable() from None

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise

        return lock

    def _connect(self, number: int, lock: int) -> SerialStream:
        aligned = _says_aligned(lock)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.ftruncate(lock, 0)
            connection.setblocking(False)
            connection.connect(str(socket_path(self._run_dir, number)))
        except OSError as error:
            connection.close()
            os.close(lock)
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
                raise unreachable() from None

            raise

        return SerialStream(connection, lock, aligned=aligned)


def _says_aligned(lock: int) -> bool:
    return os.pread(lock, len(_ALIGNED), 0) == _ALIGNED
