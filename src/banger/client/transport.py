"""HTTP/1.1 (RFC 9112) over a unix socket, as much of it as the daemon speaks.

One connection a request: connecting costs less than a stale kept-alive connection confuses. The
standard library's http.client would cost every command 20 ms of imports.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import msgspec

from banger.api.errors import ErrorCode, OutcomeUnknown, PermanentError, TransientError
from banger.host.paths import SOCKET_PATH_MAX

_HEAD_MAX = 64 * 1024
_BLOCK = 64 * 1024


class Reply(msgspec.Struct, frozen=True):
    """Status and header fields of an answer; field names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class BodyDecoder:
    """Takes the transfer coding off a body that arrives in pieces of any size."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.done = False
        self._pending = bytearray()
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left: int | None = None
        self._in_trailer = False
        if not self._chunked and "content-length" in headers:
            self._left = _number(headers["content-length"], 10)
            self.done = self._left == 0

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` completes, possibly nothing."""
        if self._chunked:
            self._pending += data
            return b"".join(iter(self._next_piece, b""))

        if self._left is None:
            return data

        taken = data[: self._left]
        self._left -= len(taken)
        self.done = self._left == 0
        return taken

    def finish(self) -> None:
        """The peer closed the connection; raises OutcomeUnknown when the body is not complete."""
        if self._chunked or self._left is not None:
            raise _cut_short()

        self.done = True

    def _next_piece(self) -> bytes:
        while not self.done:
            if self._in_trailer or not self._left:
                if not self._read_size_line():
                    return b""

                continue

            piece = bytes(self._pending[: self._left])
            del self._pending[: len(piece)]
            self._left -= len(piece)
            return piece

        return b""

    def _read_size_line(self) -> bool:
        end = self._pending.find(b"\r\n")
        if end < 0:
            return False

        line = bytes(self._pending[:end])
        del self._pending[: end + 2]
        if self._in_trailer:
            self.done = not line
        elif line:
            self._left = _number(line.partition(b";")[0].decode("ascii", "replace"), 16)
            self._in_trailer = self._left == 0

        return True


class Stream:
    """A reply whose body is read while it arrives. Close it, or use it as a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        head, rest = _read_head(connection)
        self.status, self.headers = _parse_head(head)
        self._decoder = BodyDecoder(self.headers)
        self._ready = self._decoder.feed(rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def pieces(self, tick: float | None = None) -> Iterator[bytes]:
        """The body as it comes; an empty piece whenever `tick` seconds have passed without any."""
        if self._ready:
            yield self._ready

        self._connection.settimeout(tick)
        while not self._decoder.done:
            try:
                data = self._connection.recv(_BLOCK)
            except TimeoutError:
                yield b""
                continue
            except ConnectionError:
                raise _cut_short() from None

            if not data:
                self._decoder.finish()
                return

            piece = self._decoder.feed(data)
            if piece:
                yield piece

    def lines(self, tick: float | None = None) -> Iterator[bytes]:
        """The body line by line; an empty line whenever `tick` seconds have passed without any."""
        pending = b""
        for piece in self.pieces(tick):
            if not piece:
                yield b""
                continue

            *complete, pending = (pending + piece).split(b"\n")
            yield from complete

        if pending:
            yield pending

    def read(self, timeout: float) -> bytes:
        """The whole body. Raises OutcomeUnknown when nothing arrives for `timeout` seconds."""
        parts: list[bytes] = []
        for piece in self.pieces(timeout):
            if not piece:
                raise _too_slow(timeout)

            parts.append(piece)

        return b"".join(parts)


class Transport:
    """Requests to the daemon that listens on `path`.

    `timeout` is how many seconds the daemon may stay silent before its answer is given up.
    Raises TransientError(daemon_unreachable) when nobody listens there, and OutcomeUnknown when
    the daemon went away or fell silent after the request was sent.
    """

    def __init__(self, path: Path, *, timeout: float = 60.0) -> None:
        self.path = path
        self._timeout = timeout

    def request(self, method: str, target: str, body: bytes = b"") -> Reply:
        """Send one request and read the whole answer, whatever its status."""
        with self.stream(method, target, body) as stream:
            return Reply(stream.status, stream.headers, stream.read(self._timeout))

    def stream(self, method: str, target: str, body: bytes = b"") -> Stream:
        """Send one request and return as soon as the answer's header is there."""
        connection = self._connect()
        try:
            connection.sendall(_request(method, target, body))
            return Stream(connection)
        except TimeoutError:
            connection.close()
            raise _too_slow(self._timeout) from None
        except ConnectionError:
            connection.close()
            raise _cut_short() from None
        except BaseException:
            # Also when interrupted: nobody else knows of the connection yet.
            connection.close()
            raise

    def _connect(self) -> socket.socket:
        check_socket_path(self.path)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self._timeout)
        try:
            connection.connect(str(self.path))
        except OSError as error:
            connection.close()
            raise TransientError(
                ErrorCode.DAEMON_UNREACHABLE,
                f"no daemon answers on {self.path}: {error.strerror or error}",
                hint="check the path, and on its host: banger daemon status",
            ) from None

        return connection


def check_socket_path(path: Path) -> None:
    """Raises PermanentError(config_invalid) for a path longer than the kernel takes."""
    length = len(str(path).encode())
    if length > SOCKET_PATH_MAX:
        raise PermanentError(
            ErrorCode.CONFIG_INVALID,
            f"the socket path {path} has {length} bytes, unix sockets allow {SOCKET_PATH_MAX}",
            hint="set BANGER_HOME to a shorter directory",
        )


def _request(method: str, target: str, body: bytes) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: banger\r\nConnection: close\r\n"
    if body or method in ("POST", "PATCH"):
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"

    return head.encode("ascii") + b"\r\n" + body


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(_BLOCK)
        if not data or len(received) > _HEAD_MAX:
            raise _cut_short()

        received += data

    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *fields = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    if not version.startswith("HTTP/1."):
        raise _not_http(status_line)

    headers: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()

    return _number(rest[:3], 10), headers


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise _not_http(text) from None


def _not_http(text: str) -> PermanentError:
    return PermanentError(
        ErrorCode.DAEMON_UNREACHABLE,
        f"what answers on the socket is not bangerd: {text[:60]!r}",
        hint="check --host and BANGER_HOST",
    )


def _cut_short() -> OutcomeUnknown:
    return OutcomeUnknown(
        ErrorCode.INTERRUPTED,
        "the daemon went away before it had answered",
        hint="see what was done with: banger vm list",
    )


def _too_slow(seconds: float) -> OutcomeUnknown:
    return OutcomeUnknown(
        ErrorCode.DAEMON_UNREACHABLE,
        f"the daemon did not answer within {seconds:g} s",
        hint="look at its log, then try again: banger daemon status",
    )
