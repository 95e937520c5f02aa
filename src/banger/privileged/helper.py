"""The root helper: `python -I -m banger.privileged.helper`.

Each connection is one request and gets a process of its own. So an operation may change what
belongs to a whole process (uid, namespaces, alarms), none can wait for or break another, and the
process that listens does nothing but accept. It keeps no state: all is looked up in the kernel.

Whoever connects is asked for by the kernel's word (SO_PEERCRED, unix(7)): the installation's owner
or root. One JSON line on standard error tells of every call, and of everybody who was turned away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from banger.privileged import codec
from banger.privileged.dispatch import perform
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.notify import notify, watchdog_seconds
from banger.privileged.site import Site, installed

SOCKET = "/run/banger-root/helper.sock"
REQUEST_SECONDS = 5.0
"""How long a client may take to send its request, and to take its reply."""

_MOST_AT_ONCE = 32
_BACKLOG = 128
_FIRST_PASSED = 3  # sd_listen_fds(3)
_CHUNK = 65536
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as of the moment it connected."""

    pid: int
    uid: int


class Server:
    """Serves `site` on `listener`, which it does not close."""

    def __init__(self, site: Site, listener: socket.socket) -> None:
        self._site = site
        self._listener = listener
        self._working: set[int] = set()
        self._stopping = False

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; operations that are under way then go on to their end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

        self._listener.setblocking(False)
        # A signal between the check and the wait would be missed without a descriptor to wake it.
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        notify("READY=1")
        pause = watchdog_seconds()
        while not self._stopping:
            full = len(self._working) >= _MOST_AT_ONCE
            select.select([woken, *([] if full else [self._listener.fileno()])], [], [], pause)
            if pause is not None:
                notify("WATCHDOG=1")

            with contextlib.suppress(BlockingIOError):
                os.read(woken, _CHUNK)

            self._reap()
            if len(self._working) < _MOST_AT_ONCE:
                self._accept()

        notify("STOPPING=1")

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # The system is out of files or memory: the client waits, and so does this.
            audit("-", "-", Peer(0, 0), 0.0, "failed", str(error))
            time.sleep(_PAUSE_SECONDS)
            return
        with connection:
            peer = _peer(connection)
            if peer.uid not in (0, self._site.owner_uid):
                audit("-", "-", peer, 0.0, "unauthorized")
                return

            try:
                child = os.fork()
            except OSError as error:
                audit("-", "-", peer, 0.0, "failed", str(error))
                return
            if child == 0:
                _work(self._site, self._listener, connection, peer)

            self._working.add(child)

    def _reap(self) -> None:
        for child in tuple(self._working):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == 0:
                continue

            self._working.discard(child)
            if status != 0:
                audit("-", "-", Peer(child, 0), 0.0, "died", f"wait status {status}")


def answer(site: Site, line: bytes, peer: Peer) -> bytes:
    """Do what `line` asks for and return the line that answers; never raises."""
    began = time.monotonic()
    operation, name, outcome, message = "-", "-", "ok", ""
    try:
        call = codec.decode_call(line)
        operation, name = call.operation or "-", call.name
        reply = codec.encode_result(perform(site, call.request))
    except Fault as fault:
        outcome, message = fault.code, fault.message
        reply = codec.encode_fault(fault)
    except Exception as error:
        # A defect of ours: the client is still owed an answer, and the journal the truth.
        outcome, message = FaultCode.INTERNAL, f"{type(error).__name__}: {error}"
        reply = codec.encode_fault(Fault(FaultCode.INTERNAL, "internal error; see the journal"))
    audit(operation, name, peer, time.monotonic() - began, outcome, message)
    return reply


def audit(
    operation: str, name: str, peer: Peer, seconds: float, outcome: str, message: str = ""
) -> None:
    """One line for the journal, short enough to be written whole (PIPE_BUF, pipe(7))."""
    line = {
        "audit": "banger-root-helper",
        "operation": operation,
        "op": name,
        "uid": peer.uid,
        "pid": peer.pid,
        "ms": round(seconds * 1000, 1),
        "outcome": outcome,
    }
    if message:
        line["message"] = message[:300]

    # Without a journal there is nobody to tell.
    with contextlib.suppress(OSError):
        os.write(2, json.dumps(line).encode() + b"\n")


def listen(site: Site, path: str = SOCKET) -> socket.socket:
    """The socket that systemd passed, else a new one at `path` for the owner alone.

    Its directory is root's, so that nobody else can put a socket in its place.
    """
    passed = _passed()
    if passed is not None:
        return passed

    directory = Path(path).parent
    if not directory.exists():
        directory.mkdir()
        directory.chmod(0o711)

    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise Fault(FaultCode.REFUSED, f"others than root may write to {directory}")

    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    os.chown(path, site.owner_uid, site.owner_gid)
    listener.listen(_BACKLOG)
    return listener


def _passed() -> socket.socket | None:
    """sd_listen_fds(3), for one socket."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None

    os.set_inheritable(_FIRST_PASSED, False)
    return socket.socket(fileno=_FIRST_PASSED)


def _work(site: Site, listener: socket.socket, connection: socket.socket, peer: Peer) -> NoReturn:
    """The process of one connection."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        # It goes on when the helper is told to stop.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        _converse(site, connection, peer)
        status = 0
    finally:
        os._exit(status)


def _converse(site: Site, connection: socket.socket, peer: Peer) -> None:
    try:
        line = _receive(connection)
    except Fault as fault:
        audit("-", "-", peer, 0.0, fault.code, fault.message)
        reply = codec.encode_fault(fault)
    else:
        reply = answer(site, line, peer)
    connection.settimeout(REQUEST_SECONDS)
    # The client may be gone; what was done was done, and is in the journal.
    with contextlib.suppress(OSError):
        connection.sendall(reply)


def _receive(connection: socket.socket) -> bytes:
    """One line, of bounded length, within a bounded time in all."""
    deadline = time.monotonic() + REQUEST_SECONDS
    data = bytearray()
    while not data.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            chunk = connection.recv(_CHUNK)
        except TimeoutError:
            raise Fault(FaultCode.TIMEOUT, "no whole request in time") from None
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise Fault(FaultCode.BAD_REQUEST, "the connection ended before the request did")

        data += chunk
        if len(data) > codec.MAX_MESSAGE:
            raise Fault(FaultCode.BAD_REQUEST, "the message is too long")

    return bytes(data)


def _peer(connection: socket.socket) -> Peer:
    # struct ucred: pid, uid, gid.
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack(
        "iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return Peer(pid=pid, uid=uid)


def main() -> int:
    """Serve the installed site, until told to stop."""
    os.umask(0o077)
    try:
        site = installed()
        Path(site.jails).mkdir(mode=0o700, parents=True, exist_ok=True)
        with listen(site) as listener:
            Server(site, listener).serve()
    except Fault as fault:
        sys.stderr.write(f"root helper: {fault.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
