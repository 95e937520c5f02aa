"""The DNS server's sockets: UDP and TCP on the same ports, plain non-blocking, no transports.

asyncio's datagram transport keeps every answer that a full socket refuses; here it is dropped, as
UDP may, and so nothing a client does makes anything grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from dataclasses import dataclass, field

from banger.api.errors import ErrorCode, PermanentError
from banger.network.dns.limits import Bucket, Limits, SourceBuckets
from banger.network.dns.zone import Zone

# Documented for hosts whose resolver has to be told by hand.
PORT = 42069

_BATCH = 16
_MAX_MESSAGE = 4096
_DATAGRAM_BUFFER = 256 * 1024
# Per connection and direction; the kernel would let them grow to megabytes.
_STREAM_BUFFER = 16 * 1024
# A source beyond its rate hears "come over TCP" for one datagram in so many.
_SLIP = 8
# What a datagram that is thrown away costs, in answers.
_UNREAD = 0.1
# When all rates are used up: how long datagrams are left where they are.
_PAUSE = 0.05
# Linux, ip(7): bind an address the host does not have yet.
_IP_FREEBIND = 15

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    answered: int = 0
    refused_by_rate: int = 0
    unanswerable: int = 0
    connections: int = 0


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    source: str
    task: asyncio.Task[None] | None = None
    buffer: bytearray = field(default_factory=bytearray)


class DnsServer:
    """Serves `zone` on every address it was told to `listen` on, until closed."""

    def __init__(self, zone: Zone, limits: Limits | None = None) -> None:
        self._zone = zone
        self._limits = limits or Limits()
        self._sources = SourceBuckets(self._limits)
        self._total = Bucket(self._limits.total_rate, self._limits.total_burst)
        self._datagrams: list[socket.socket] = []
        self._listeners: list[tuple[socket.socket, asyncio.Task[None]]] = []
        # Least recently active first.
        self._connections: dict[_Connection, None] = {}
        self.counters = Counters()

    def listen(self, address: str, port: int = PORT) -> int:
        """Serve UDP and TCP on `address`, which the host need not have yet; return the port.

        With port 0 any that is free. Raises PermanentError(port_taken).
        """
        try:
            stream, datagram = _bind_pair(address, port)
        except OSError as error:
            raise PermanentError(
                ErrorCode.PORT_TAKEN,
                f"the DNS server cannot use {address}:{port}: {os.strerror(error.errno or 0)}",
                hint=f"see who has it: ss -lnptu sport = :{port}",
            ) from None
        loop = asyncio.get_running_loop()
        loop.add_reader(datagram, self._read, datagram)
        self._datagrams.append(datagram)
        self._listeners.append((stream, loop.create_task(self._accept(stream))))
        chosen: int = stream.getsockname()[1]
        log.info("DNS on %s:%d", address, chosen)
        return chosen

    async def close(self) -> None:
        """Stop serving and close every socket."""
        loop = asyncio.get_running_loop()
        for datagram in self._datagrams:
            loop.remove_reader(datagram)
            datagram.close()

        tasks = [task for _, task in self._listeners]
        tasks += [each.task for each in self._connections if each.task is not None]
        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)
        for stream, _ in self._listeners:
            stream.close()

        self._datagrams.clear()
        self._listeners.clear()

    def _read(self, datagram: socket.socket) -> None:
        # A batch, and then the loop's other business.
        for _ in range(_BATCH):
            try:
                packet, (source, port) = datagram.recvfrom(_MAX_MESSAGE)
            except OSError:
                # Nothing there, or an ICMP error about an earlier answer: both leave nothing to do.
                return

            answer = self._consider(packet, source)
            if answer is not None and port != 0:
                with contextlib.suppress(OSError):
                    datagram.sendto(answer, (source, port))

            # Or one that floods would use up everybody's share with what is not even looked at.
            if self._total.reserve(_UNREAD if answer is None else 1.0) > 0.0:
                self._rest(datagram)
                return

    def _rest(self, datagram: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(datagram)
        loop.call_later(_PAUSE, self._resume, datagram)

    def _resume(self, datagram: socket.socket) -> None:
        if datagram in self._datagrams:
            asyncio.get_running_loop().add_reader(datagram, self._read, datagram)

    def _consider(self, packet: bytes, source: str) -> bytes | None:
        over = not self._sources.of(source).take()
        if over:
            self.counters.refused_by_rate += 1
            if self.counters.refused_by_rate % _SLIP:
                return None

        return self._respond(packet, truncate=over)

    def _respond(self, packet: bytes, *, truncate: bool = False) -> bytes | None:
        answer = self._zone.respond(packet, truncate=truncate)
        if answer is None:
            self.counters.unanswerable += 1
        else:
            self.counters.answered += 1

        return answer

    async def _accept(self, stream: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._total.reserve())
            try:
                accepted, (source, _) = await loop.sock_accept(stream)
            except OSError as error:
                # The client left before it was greeted, or file descriptors ran out for a while.
                log.debug("accept: %s", error)
                await asyncio.sleep(_PAUSE)
                continue

            self._admit(_Connection(accepted, source))

    def _admit(self, connection: _Connection) -> None:
        self.counters.connections += 1
        if len(self._connections) >= self._limits.connections:
            # RFC 7766, 6.2.3: whoever has been silent longest makes room.
            self._drop(next(iter(self._connections)))

        connection.task = asyncio.get_running_loop().create_task(self._converse(connection))
        # Not in the coroutine: one that is cancelled before its first step never runs.
        connection.task.add_done_callback(lambda _: connection.socket.close())
        self._connections[connection] = None

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        if connection.task is not None:
            connection.task.cancel()

    async def _converse(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.socket.setblocking(False)
        try:
            while (message := await self._next_message(connection)) is not None:
                self._connections[connection] = self._connections.pop(connection)
                source = self._sources.of(connection.source)
                await asyncio.sleep(max(source.reserve(), self._total.reserve()))
                answer = self._respond(message)
                if answer is None:
                    return

                async with asyncio.timeout(self._limits.idle):
                    await loop.sock_sendall(
                        connection.socket, len(answer).to_bytes(2, "big") + answer
                    )
        except (OSError, TimeoutError):
            # Gone, or too slow to be waited for.
            return
        finally:
            self._connections.pop(connection, None)

    async def _next_message(self, connection: _Connection) -> bytes | None:
        """The next message of a stream, whole (RFC 1035, 4.2.2); None when there is none to come.

        Answers are sent before the next question is read, so a client that pipelines without
        reading waits in its own kernel's buffer, not in ours.
        """
        async with asyncio.timeout(self._limits.idle):
            prefix = await _read_exactly(connection, 2)
            length = int.from_bytes(prefix, "big")
            if not 0 < length <= _MAX_MESSAGE:
                return None

            message = await _read_exactly(connection, length)
        return message or None


async def _read_exactly(connection: _Connection, size: int) -> bytes:
    """`size` bytes; none at all when the stream ends before."""
    loop = asyncio.get_running_loop()
    buffer = connection.buffer
    while len(buffer) < size:
        piece = await loop.sock_recv(connection.socket, _MAX_MESSAGE)
        if not piece:
            return b""

        buffer += piece
    taken = bytes(buffer[:size])
    del buffer[:size]
    return taken


def _bind_pair(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A listening TCP and a UDP socket on the same port."""
    while True:
        stream = _bound(socket.SOCK_STREAM, address, port)
        try:
            datagram = _bound(socket.SOCK_DGRAM, address, stream.getsockname()[1])
        except OSError as error:
            stream.close()
            if port == 0 and error.errno == errno.EADDRINUSE:
                continue

            raise
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            stream.setsockopt(socket.SOL_SOCKET, option, _STREAM_BUFFER)

        datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DATAGRAM_BUFFER)
        stream.listen(64)
        return stream, datagram


def _bound(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind is socket.SOCK_STREAM:
            # Or a daemon that starts again would have to wait for its own last connections.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
